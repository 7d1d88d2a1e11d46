"""GRPO of adapters on the mini V3, as `experiments.lora_study` sets it beside all weights.

Reproduces: nothing; the adapters are those of 2106.09685, the rule of GRPO that of
  configs/grpo_mini.py. Hardware: two CPU cores.
Command: python -m experiments.lora_study --config=configs/lora_mini.py --workdir=runs/lora
         --config.init=runs/mini
Result: not run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Rank 8, the most that the mini's rotated key takes, on attention and feed-forwards."""
  return base.grpo(
    train={"steps": 24, "checkpoint_every": 8},
    rl={
      "rollout": {"prompts": 32, "group": 8, "max_new": 128, "width": 144, "updates": 2},
      "warmup": 2,
    },
    lora={"rank": 8, "alpha": 16.0},
  )
