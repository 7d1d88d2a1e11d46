"""Rewards: the weighted sum of what a verifier says (2501.12948, sections 2.2 and 3.2: accuracy,
format, language), of what length and repetition are worth, and of what a reward model says
(`reward_parts.py`).

R1 gives accuracy and format equal weight; the minis' default, a tenth for the format, keeps a
well-formed guess far below a right answer.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.data.conversation import without_thought
from deepseek_jax.rl.completions import Completion
from deepseek_jax.rl.reward_parts import (
  CosineConfig,
  LearnedConfig,
  OverlongConfig,
  RepetitionConfig,
  cosine,
  overlong,
  repetition,
)

# (rewards_BJ, iteration) -> rewards_BJ: what an experiment may do to rewards before they are used.
Transform = Callable[[np.ndarray, int], np.ndarray]
# (prompts, texts) -> reward_N: a reward model, see `reward_model.RewardModel`.
Judge = Callable[[Sequence[str], Sequence[str]], np.ndarray]

SCORED = ("correct", "format", "language", "said")  # figures of a `Score`
_OURS = ("overlong", "cosine", "repetition", "learned")


@dataclasses.dataclass(frozen=True)
class RewardConfig:
  """The weight of each part of a reward; a part of weight 0 is not in use.

  `correct`, `format`, `language` and `said` are the weights of a `Score`'s figures; the other parts
  have theirs among their settings.
  """

  correct: float = 1.0
  format: float = 0.1
  language: float = 0.0
  said: float = 0.0  # right in whatever form, of tasks that judge that
  overlong: OverlongConfig = OverlongConfig()
  cosine: CosineConfig = CosineConfig()
  repetition: RepetitionConfig = RepetitionConfig()
  learned: LearnedConfig = LearnedConfig()

  def __post_init__(self) -> None:
    for name in SCORED:
      value = getattr(self, name)
      require(math.isfinite(value), f"reward.{name} is {value}; it must be a finite number.")

  def weights(self) -> dict[str, float]:
    """Of the parts in use, by name."""
    weights = {name: getattr(self, name) for name in SCORED}
    weights |= {name: getattr(self, name).weight for name in _OURS}
    return {name: weight for name, weight in weights.items() if weight}

  def check(self, longest: int, truncated: str) -> None:
    """ConfigError unless the parts fit answers of at most `longest` tokens, see AdvantageConfig."""
    buffer, used = self.overlong.buffer, [name for name in _OURS if getattr(self, name).weight]
    require(
      "overlong" not in used or buffer <= longest,
      f"reward.overlong.buffer is {buffer}; it must not exceed rollout.max_new, {longest}.",
    )
    require(
      not used or truncated != "zero",
      f"reward.{used[0] if used else ''}.weight is above 0, but advantage.truncated is 'zero' and "
      "gives a sample that was cut off the reward 0, more than a penalty; make it keep or mask.",
    )


@dataclasses.dataclass(frozen=True)
class Rewards:
  """Of B prompts with J samples each."""

  total_BJ: np.ndarray  # float64
  parts: Mapping[str, np.ndarray]  # of those in use, by name: [B, J], without their weights


def joined(several: Sequence[Rewards]) -> Rewards:
  """The rewards of all prompts, in order."""
  if len(several) == 1:
    return several[0]
  names = several[0].parts
  return Rewards(
    np.concatenate([r.total_BJ for r in several]),
    {name: np.concatenate([r.parts[name] for r in several]) for name in names},
  )


def rewards(
  completions: Sequence[Completion],
  group: int,
  config: RewardConfig,
  longest: int,
  judge: Judge | None = None,
) -> Rewards:
  """Of completions laid out prompt by prompt, `group` (J) of each, of at most `longest` tokens.

  `judge` is the reward model of `config.learned`, where that is in use.
  """
  total_BJ, parts = np.zeros([len(completions) // group, group]), {}
  for name, weight in config.weights().items():
    if name == "learned":
      assert judge is not None  # for whoever made the config in use has loaded it
      values = _learned(completions, judge, config.learned)
    else:
      values = [_value(one, name, config, longest) for one in completions]
    parts[name] = np.array(values, np.float64).reshape(-1, group)
    total_BJ = total_BJ + weight * parts[name]
  return Rewards(total_BJ, parts)


def _learned(
  completions: Sequence[Completion], judge: Judge, config: LearnedConfig
) -> Sequence[float]:
  """The reward model's figure of each completion."""
  places = [i for i, one in enumerate(completions) if config.judges(one.problem.task)]
  texts = [completions[i].text for i in places]
  if config.reads == "answer":
    texts = [without_thought(text) for text in texts]
  values = [0.0] * len(completions)
  if places:
    judged = judge([completions[i].problem.prompt for i in places], texts).tolist()
    for place, value in zip(places, judged, strict=True):
      values[place] = value
  return values


def _value(one: Completion, part: str, config: RewardConfig, longest: int) -> float:
  """A part of one completion's reward, without its weight."""
  length, right = one.sampled, one.score.correct >= 1
  match part:
    case "overlong":
      return overlong(length, one.truncated, longest, config.overlong.buffer)
    case "cosine":
      return cosine(length, right, one.truncated, longest, config.cosine)
    case "repetition":
      return repetition(one.text, config.repetition.ngram)
  value = getattr(one.score, part)
  require(
    value is not None,
    f"reward.{part} is in use, but the task {one.problem.task!r} does not judge that; leave it 0.",
  )
  return value


def permuted(seed: int) -> Transform:
  """A control: each group keeps its rewards but deals them to its samples at random.

  Rewards, advantages and their statistics are those of a real run, yet say nothing about which
  sample was good, so that a policy trained on them must not improve.
  """

  def transform(rewards_BJ: np.ndarray, iteration: int) -> np.ndarray:
    return np.random.default_rng([seed, iteration]).permuted(rewards_BJ, axis=1)

  return transform
