"""GRPO of adapters on the mini V3, as `experiments.grpo_study` sets it beside all weights.

Reproduces: nothing; the adapters are those of 2106.09685, the rule of GRPO that of
  configs/grpo_mini.py. Hardware: two CPU cores.
Command: python -m experiments.pretrain --config=configs/pretrain_mini.py --workdir=runs/mini
         --config.train.steps=1400 --config.data.packing=documents --config.data.length=144
         --config.model.moe.shared=4
         python -m experiments.grpo_study --config=configs/lora_mini.py --workdir=runs/lora
         --config.init=runs/mini --against=lora=None --rates=1e-3,3e-3 --against_rates=2e-4,4e-4
Result: pass@1 of 192 held-out problems at T = 1, one seed: base .294; adapters, 56,320 numbers at
  rate 3e-3, .688, a gain of +.393 [.345, .442]; all 636,608 at 2e-4 .697, +.402 [.357, .448];
  adapters less all weights -.009 [-.041, .023]. Sampler and trainer differ by 5e-5 at most.
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
