"""A reward model in the verifier's place, as `experiments.grpo_study` sets it beside its absence.

Reproduces: nothing; R1's last stage has such a reward for prompts that no rule judges (2501.12948).
  Here a verifier could, and says in the end what the learned reward was worth. Hardware: two CPU
  cores.
Command: python -m experiments.reward_model --config=configs/reward_mini.py --workdir=runs/reward
         python -m experiments.grpo_study --config=configs/learned_mini.py --workdir=runs/learned
         --config.init=runs/mini --config.rl.rollout.reward.learned.model=runs/reward
         --against=rl.rollout.reward.learned.weight=0,rl.rollout.reward.learned.model= --seeds=0,1
         with runs/mini as configs/lora_mini.py makes it
Result: pass@1 of 192 held-out problems at T = 1, seeds 0 and 1: base .298; with the reward model,
  which judges .723 of held-out pairs right, .449, a gain of +.150 [.095, .205]; with the form's
  reward alone .141, -.157 [-.191, -.123], for answers shrink to guesses; the difference is +.307
  [.259, .355]. The verifier itself gains +.311 so (configs/dynamic_mini.py, without).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """The form is rewarded by rule, the answer by the reward model alone."""
  return base.grpo(
    train={"steps": 24, "checkpoint_every": 8},
    rl={
      "rollout": {
        "prompts": 32,
        "group": 8,
        "max_new": 128,
        "width": 144,
        "updates": 2,
        "advantage": {"truncated": "keep"},
        "reward": {"correct": 0.0, "format": 0.1, "learned": {"weight": 0.5}},
      },
      "peak": 2e-4,
      "warmup": 2,
    },
  )
