"""Dynamic sampling on the mini V3, as `experiments.grpo_study` sets it beside its absence.

Reproduces: the rule of 2503.14476, section 3.2: groups of one mind make room for others. Hardware:
  two CPU cores.
Command: python -m experiments.grpo_study --config=configs/dynamic_mini.py --workdir=runs/dynamic
         --config.init=runs/mini --against=rl.rollout.dynamic=0 --seeds=0,1
         with runs/mini as configs/lora_mini.py makes it
Result: pass@1 of 192 held-out problems at T = 1, seeds 0 and 1: base .298; with it .586, +.288
  [.245, .331], for 164 thousand sampled tokens; without .609, +.311 [.268, .353], for 99 thousand;
  with less without -.023 [-.043, -.003]: it does not pay where few groups are of one mind.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """16 prompts x 8 samples, up to three further rounds."""
  return base.grpo(
    train={"steps": 24, "checkpoint_every": 8},
    rl={
      "rollout": {
        "prompts": 16, "group": 8, "dynamic": 3, "max_new": 128, "width": 144, "updates": 1,
      },
      "peak": 2e-4,
      "warmup": 2,
    },
  )  # fmt: skip
