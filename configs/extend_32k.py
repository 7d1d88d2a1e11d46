"""DeepSeek-V3's first context extension, to 32K (2412.19437, section 4.3).

Reproduces: 1000 steps of 1920 sequences of 32,768 tokens at a constant rate of 7.3e-6, with YaRN on
the decoupled key alone: scale s = 40, alpha = 1, beta = 32, temperature 0.1 ln s + 1, the original
context being 4096. YaRN's scale is that of both phases, so that a model extended to 32K needs no
other rotation for 128K. The weight of multi-token prediction and the still router bias are taken
from the end of pre-training, and the data likewise; the paper says nothing of them.
Hardware: V3's extension took 119K H800 GPU-hours, both phases together; the mesh is for 2048.
Command: python -m experiments.pretrain --config=configs/extend_32k.py --workdir=W32
         --config.init=W --config.data.path=TEXT --config.data.tokenizer=DIR
         where W is the workdir of configs/v3_671b.py; configs/extend_128k.py goes on from W32
Result: not run.
"""

from ml_collections import ConfigDict

from configs import v3_671b


def get_config(
  length: int = 32_768,
  sequences: int = 1920,
  rows: int = 128,
  mesh: tuple[int, int, int] = (2, 64, 16),
) -> ConfigDict:
  """A phase of the extension; `rows` of `length` tokens make one of a step's micro-batches."""
  return v3_671b.recipe(
    length=length,
    rows=rows,
    mesh=mesh,
    micro_batches=sequences // rows,
    model={
      "preset": "v3_671b",
      "rope": {
        "scaling": "yarn",
        "factor": 40.0,
        "original_context": 4096,
        "beta_slow": 1.0,  # the paper's alpha
        "beta_fast": 32.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
      },
    },
    schedule={"peak": 7.3e-6, "warmup": 0, "final": 1.0, "speed": 0.0, "mtp": (0.1, 0.1)},
    train={"steps": 1000, "checkpoint_every": 100, "log_every": 1},
    init="",
  )
