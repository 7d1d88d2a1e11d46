"""What a sample counts for: its advantage within its group, and the weight of its tokens.

Here the forms of GRPO part: the advantage is divided by the group's standard deviation (2402.03300)
or not (Dr. GRPO, 2503.20783), and an update's mean runs over sequences, then tokens (the papers of
DeepSeek), over tokens (DAPO, 2503.14476), or over sequences of a constant length (Dr. GRPO).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from deepseek_jax.config import require

_EPSILON = 1e-6  # of the standard deviation, and below it a group is taken to be uniform


@dataclasses.dataclass(frozen=True)
class AdvantageConfig:
  """How rewards become advantages and token weights."""

  scale: str = "std"  # std | none
  truncated: str = "zero"  # samples cut off: zero their reward | mask them | keep as scored
  normalisation: str = "token"  # token | sequence | constant

  def __post_init__(self) -> None:
    for name, values in (
      ("scale", ("std", "none")),
      ("truncated", ("zero", "mask", "keep")),
      ("normalisation", ("token", "sequence", "constant")),
    ):
      value = getattr(self, name)
      require(value in values, f"advantage.{name} is {value!r}; use one of {', '.join(values)}.")


@dataclasses.dataclass(frozen=True)
class Advantages:
  """Of B prompts with J samples each."""

  reward_BJ: np.ndarray  # float64: what was compared; 0 where a sample cut off has its zeroed
  advantage_BJ: np.ndarray  # float64; zero where not kept
  kept_BJ: np.ndarray  # bool: what enters the update
  zero_variance: int  # groups without any difference in reward, dropped whole


def group_advantages(
  rewards_BJ: np.ndarray, truncated_BJ: np.ndarray, config: AdvantageConfig
) -> Advantages:
  """(r - mean) / (std + 1e-6), with the population's standard deviation, or r - mean.

  A masked sample is as if it had not been drawn: it moves neither mean nor deviation. A group whose
  rewards are all equal, or that has fewer than two samples left, teaches nothing and is dropped.
  """
  rewards_BJ = np.asarray(rewards_BJ, np.float64)
  valid_BJ = np.ones(rewards_BJ.shape, bool)
  if config.truncated == "zero":
    rewards_BJ = np.where(truncated_BJ, 0.0, rewards_BJ)
  elif config.truncated == "mask":
    valid_BJ = ~np.asarray(truncated_BJ, bool)
  count_B1 = np.maximum(valid_BJ.sum(axis=1, keepdims=True), 1)
  mean_B1 = np.where(valid_BJ, rewards_BJ, 0.0).sum(axis=1, keepdims=True) / count_B1
  centred_BJ = np.where(valid_BJ, rewards_BJ - mean_B1, 0.0)
  std_B1 = np.sqrt((centred_BJ**2).sum(axis=1, keepdims=True) / count_B1)
  varied_B1 = std_B1 > _EPSILON
  advantage_BJ = centred_BJ / (std_B1 + _EPSILON) if config.scale == "std" else centred_BJ
  return Advantages(
    reward_BJ=rewards_BJ,
    advantage_BJ=np.where(varied_B1, advantage_BJ, 0.0),
    kept_BJ=valid_BJ & varied_B1,
    zero_variance=int(np.sum(~varied_B1)),
  )


def first_groups(several: Sequence[Advantages], count: int) -> Advantages:
  """The advantages of all prompts, in order, of which the first `count` groups that tell are kept.

  Groups beyond those are surplus and lose their advantages.
  """
  kept_BJ = np.concatenate([a.kept_BJ for a in several])
  telling_B = kept_BJ.any(axis=1)
  within_B1 = (np.cumsum(telling_B) <= count)[:, None]
  advantage_BJ = np.concatenate([a.advantage_BJ for a in several])
  return Advantages(
    reward_BJ=np.concatenate([a.reward_BJ for a in several]),
    advantage_BJ=np.where(within_B1, advantage_BJ, 0.0),
    kept_BJ=kept_BJ & within_B1,
    zero_variance=sum(a.zero_variance for a in several),
  )


def token_weights(lengths_N: np.ndarray, normalisation: str, longest: int) -> np.ndarray:
  """The weight of each token of the N completions of an update, by completion.

  `longest` is the constant length, the most tokens a completion may have. Weights times lengths sum
  to one but for `constant`, where completions shorter than that make it less.
  """
  lengths_N = np.asarray(lengths_N, np.float64)
  if normalisation == "sequence":
    return 1.0 / (len(lengths_N) * lengths_N)
  if normalisation == "token":
    return np.full(len(lengths_N), 1.0 / max(lengths_N.sum(), 1.0))
  return np.full(len(lengths_N), 1.0 / (max(len(lengths_N), 1) * longest))
