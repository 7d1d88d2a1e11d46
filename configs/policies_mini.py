"""The mini V3 on chain sums, every other one under a written policy: the base of a deliberation.

Reproduces: the instruction-following start of deliberative alignment (2412.16339, section 2), in
  that policies are followed which are written before a request; each pair of digits is one, and
  seven of the 36 pairs are in no prompt. Hardware: two CPU cores.
Command: python -m experiments.pretrain --config=configs/policies_mini.py --workdir=runs/policies
Result: on held-out sums under a policy that is in none of its prompts, right .977 and .949 greedily
  (seeds 0 and 1), .848 and .788 at T = 1; asked without the policy it refuses .003 of what the
  policy touches. By experiments.deliberative_study.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """configs/pretrain_mini.py on another task, with problems hidden from one another."""
  return base.pretrain(
    model={"preset": "v3_mini", "vocab": 432},
    schedule={"peak": 3e-3, "warmup": 50},
    train={"steps": 1400, "checkpoint_every": 500, "spike_factor": 2.0},
    data={"task": "policies", "batch": 12, "length": 128, "packing": "documents"},
  )
