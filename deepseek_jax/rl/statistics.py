"""What an iteration logs of its samples, whether they enter an update or not."""

from collections.abc import Sequence

import numpy as np

from deepseek_jax.rl.advantages import Advantages
from deepseek_jax.rl.completions import Completion
from deepseek_jax.rl.rewards import SCORED, Rewards
from deepseek_jax.tasks.scoring import failures


def statistics(
  completions: Sequence[Completion], rewards: Rewards, advantages: Advantages
) -> dict[str, float]:
  """Means over all samples, and standard deviations of the reward and of its parts in use.

  The reward is what the update learns from, so that one cut off counts as `advantage.truncated`
  says; the parts are as they were judged. A verifier's figures go by their own names, used or not;
  another part's mean is `reward_PART`.
  """
  lengths = [c.sampled for c in completions]
  return {
    "reward": float(advantages.reward_BJ.mean()),
    "correct": float(np.mean([c.score.correct for c in completions])),
    "format": float(np.mean([c.score.format for c in completions])),
    "language": float(np.mean([c.score.language for c in completions])),
    "reward_std": float(advantages.reward_BJ.std()),
    **_parts(rewards),
    "truncated": float(np.mean([c.truncated for c in completions])),
    "length": float(np.mean(lengths)),
    "sampled_tokens": float(np.sum(lengths)),
    "zero_variance": advantages.zero_variance / len(advantages.reward_BJ),
    "kept": float(advantages.kept_BJ.mean()),
    **{
      f"unjudged_{kind}": float(n) for kind, n in failures([c.score for c in completions]).items()
    },
  }


def turn_statistics(completions: Sequence[Completion]) -> dict[str, float]:
  """Of exchanges: turns of the model, and tokens of the task's replies, means over all samples."""
  return {
    "turns": float(np.mean([1 + len(c.replies) for c in completions])),
    "reply_tokens": float(np.mean([len(c.tokens) - c.sampled for c in completions])),
  }


def _parts(rewards: Rewards) -> dict[str, float]:
  """Deviations of the parts in use, and the means that no other name has."""
  found = {}
  for part, values_BJ in rewards.parts.items():
    if part not in SCORED:
      found[f"reward_{part}"] = float(values_BJ.mean())
    found[f"reward_{part}_std"] = float(values_BJ.std())
  return found
