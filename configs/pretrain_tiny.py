"""A V3 of a few thousand parameters: to see the machinery run.

Reproduces: nothing. Hardware: any CPU.
Command: python -m experiments.pretrain --config=configs/pretrain_tiny.py --workdir=runs/tiny
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Everything V3 has, as small as it goes."""
  return base.pretrain(
    model={
      "preset": "v3_mini",
      "d_model": 32,
      "layers": 2,
      "heads": 2,
      "dense_ff": 64,
      "attention": {"q_latent": 16, "kv_latent": 16, "nope_dim": 8, "rope_dim": 4, "v_dim": 8},
      "moe": {"expert_ff": 16},
    },
    schedule={"peak": 5e-3, "warmup": 10},
    train={"steps": 60, "checkpoint_every": 20},
    data={"batch": 4, "length": 64},
    loss_chunk=256,
  )
