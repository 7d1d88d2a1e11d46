"""Rewards from a verifier's scores (2501.12948, sections 2.2 and 3.2: accuracy, format, language).

R1 gives accuracy and format equal weight; the minis' default, a tenth for the format, keeps a
well-formed guess far below a right answer.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.rl.completions import Completion

# (rewards_BJ, iteration) -> rewards_BJ: what an experiment may do to rewards before they are used.
Transform = Callable[[np.ndarray, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class RewardConfig:
  """The weight of each figure of a `Score`."""

  correct: float = 1.0
  format: float = 0.1
  language: float = 0.0

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      require(math.isfinite(value), f"reward.{field.name} is {value}; it must be a finite number.")


def rewards(completions: Sequence[Completion], group: int, config: RewardConfig) -> np.ndarray:
  """rewards_BJ of completions laid out prompt by prompt, `group` (J) of each."""
  flat = [
    config.correct * c.score.correct
    + config.format * c.score.format
    + config.language * c.score.language
    for c in completions
  ]
  return np.array(flat, np.float64).reshape(-1, group)


def permuted(seed: int) -> Transform:
  """A control: each group keeps its rewards but deals them to its samples at random.

  Rewards, advantages and their statistics are those of a real run, yet say nothing about which
  sample was good, so that a policy trained on them must not improve.
  """

  def transform(rewards_BJ: np.ndarray, iteration: int) -> np.ndarray:
    return np.random.default_rng([seed, iteration]).permuted(rewards_BJ, axis=1)

  return transform
