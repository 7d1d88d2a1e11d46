"""The context extension in miniature: from 256 positions to 2K, and then to 8K.

Reproduces: the two phases of configs/extend_32k.py and extend_128k.py, on a V3 of about a million
parameters that reads bytes of the Python standard library: YaRN of scale 40 over an original
context of 256, in steps of 8 and of 4, as 4K, 32K and 128K are. Hardware: two CPU cores.
Command: python -m experiments.pretrain --config=configs/extend_mini.py:256 --workdir=W256
         python -m experiments.pretrain --config=configs/extend_mini.py:2k --workdir=W2k
           --config.init=W256
         python -m experiments.pretrain --config=configs/extend_mini.py:8k --workdir=W8k
           --config.init=W2k
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base

ORIGINAL, FACTOR = 256, 40.0
# By phase: length of a sequence, sequences in a step, steps, and the rate.
PHASES = {
  "256": (256, 32, 2000, 3e-3),
  "2k": (2048, 4, 100, 3e-4),
  "8k": (8192, 1, 100, 3e-4),
}


def get_config(phase: str = "256") -> ConfigDict:
  """Pre-training (256), the first extension (2k) or the second (8k)."""
  if phase not in PHASES:
    raise ValueError(f"there is no phase {phase!r}; the phases are {', '.join(PHASES)}.")
  length, batch, steps, rate = PHASES[phase]
  extension = phase != "256"
  rope = {"scaling": "yarn", "factor": FACTOR, "mscale": 1.0, "mscale_all_dim": 1.0}
  return base.pretrain(
    model={
      "preset": "v3_mini",
      "attention": {"rope_dim": 16},
      "rope": {"original_context": ORIGINAL, **(rope if extension else {})},
      "max_context": int(ORIGINAL * FACTOR),
    },
    schedule={
      "peak": rate,
      "warmup": 0 if extension else 50,
      "final": 1.0 if extension else 0.1,
      "speed": 0.0 if extension else 1e-3,
      "mtp": (0.1, 0.1) if extension else (0.3, 0.1),
    },
    train={"steps": steps, "checkpoint_every": steps // 4},
    data={"source": "stdlib", "tokenizer": "byte", "batch": batch, "length": length},
    init="",
  )
