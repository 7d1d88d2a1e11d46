"""Sixteen thin layers that read Python, byte by byte, with an MTP module to draft for them.

Reproduces: the use that V3 makes of its MTP module in decoding (2412.19437, section 5.4.3), small.
There are no experts, of which a second token would read others. The module's loss weighs more than
V3's 0.3, for here it is wanted as a draftsman.
Hardware: two CPU cores.
Command: python -m experiments.pretrain --config=configs/pretrain_draft.py --workdir=runs/draft
         python -m experiments.bench --suite=speculative --model=runs/draft
Result: 67 minutes beside other jobs; 77 of 100 guesses are right at T = 0.6 (LOG, 2026-11-25).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Bytes of the standard library in rows of 256."""
  return base.pretrain(
    model={
      "vocab": 512,
      "d_model": 64,
      "layers": 16,
      "heads": 4,
      "dense_ff": 192,
      "attention": {"q_latent": 32, "kv_latent": 32, "nope_dim": 16, "rope_dim": 16, "v_dim": 16},
      "mtp_depth": 1,
      "max_context": 1024,
    },
    compute={"unroll": 16},
    schedule={"peak": 4e-3, "warmup": 60, "mtp": (1.0, 1.0)},
    train={"steps": 2400, "checkpoint_every": 250},
    data={"source": "stdlib", "tokenizer": "byte", "batch": 16, "length": 256},
  )
