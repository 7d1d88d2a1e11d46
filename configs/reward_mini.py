"""A reward model on the mini V3, which learns to tell right solutions from wrong ones.

Reproduces: the kind of R1's helpfulness reward (2501.12948: batch 256, rate 6e-6, one epoch); a
  mini's rate is higher. Hardware: two CPU cores.
Command: python -m experiments.reward_model --config=configs/reward_mini.py --workdir=runs/reward
         [--config.init=runs/mini]
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """The preset v3_mini from random weights, unless `init` says another model."""
  return base.reward_model(
    model={"preset": "v3_mini"},
    train={"checkpoint_every": 100},
    data={
      "records": 4096, "labels": 0.25, "heldout": 0.125, "batch": 64, "length": 160, "epochs": 4,
    },
    peak=3e-3,
    warmup=30,
    evaluation={"every": 50},
  )  # fmt: skip
