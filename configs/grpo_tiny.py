"""Reinforcement of the model of configs/pretrain_tiny.py: to see the machinery run.

Reproduces: nothing. Hardware: any CPU.
Command: python -m experiments.grpo --config=configs/grpo_tiny.py --workdir=runs/tiny_rl
         --config.init=runs/tiny
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Few short samples, with a reference that is reset."""
  return base.grpo(
    train={"steps": 6, "checkpoint_every": 2},
    rl={
      "rollout": {
        "prompts": 4, "group": 4, "max_new": 16, "width": 32, "updates": 2, "rows": 4,
      },
      "kl_weight": 0.01,
      "reference_every": 4,
    },
    engine_batch=16,
    loss_chunk=256,
  )  # fmt: skip
