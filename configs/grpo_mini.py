"""R1-Zero in miniature: GRPO on a base model, against the verifier of the mini tasks.

Reproduces: the stage r1_zero of configs/r1_mini.py, alone. Hardware: two CPU cores.
Command: python -m experiments.grpo --config=configs/grpo_mini.py --workdir=runs/rl
         --config.init=runs/mini
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """32 prompts x 8 samples, two updates each, token-level loss, clip .2/.28, no KL."""
  return base.grpo(
    train={"steps": 60, "checkpoint_every": 10},
    rl={
      "rollout": {"prompts": 32, "group": 8, "max_new": 128, "width": 144, "updates": 2},
      "peak": 3e-4,
      "final": 0.2,
    },
  )
