"""A reward model on the mini V3, which learns to tell right solutions from wrong ones.

Reproduces: the kind of R1's helpfulness reward (2501.12948: batch 256, rate 6e-6, one epoch); a
  mini's rate is higher. Hardware: two CPU cores.
Command: python -m experiments.reward_model --config=configs/reward_mini.py --workdir=runs/reward
         [--config.init=runs/mini]
Result: from random weights .744 [.697, .786] of 382 held-out pairs and .809 [.731, .868] of 130
  labels are judged right after 455 steps, which take 145 s on an Intel Xeon, other work beside. It
  reads verdicts and does not calculate: countdowns whose trials are written out (124 pairs) are all
  judged right, and a solution that lacks the tags loses (41 of 42), but sums written out (66) are
  at .52, and two guesses at .59 (94 countdowns) and .47 (47 sums).
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
