"""The mini V3 on procedural problems with worked solutions.

Reproduces: the first stage of configs/r1_mini.py, alone. Hardware: two CPU cores.
Command: python -m experiments.pretrain --config=configs/pretrain_mini.py --workdir=runs/mini
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """The preset v3_mini with V3's recipe by fraction of the run."""
  return base.pretrain(
    model={"preset": "v3_mini"},
    schedule={"peak": 3e-3, "warmup": 50},
    train={"steps": 2000, "checkpoint_every": 500, "spike_factor": 2.0},
    data={"batch": 12, "length": 128},
  )
