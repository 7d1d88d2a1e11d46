"""From prompts to the batches of a few updates: sample, judge, compare within groups, pack."""

import dataclasses
import math

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import Engine, SamplingParams
from deepseek_jax.rl.advantages import (
  AdvantageConfig,
  Advantages,
  group_advantages,
  token_weights,
)
from deepseek_jax.rl.completions import Completion, draw, fitting_problems
from deepseek_jax.rl.packing import pack
from deepseek_jax.rl.rewards import RewardConfig, Transform, rewards
from deepseek_jax.tasks.scoring import failures
from deepseek_jax.tasks.task import Task
from deepseek_jax.types import RolloutBatch, Weights


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
  """What is sampled at a time, and how it is cut into updates.

  Sampling is from the whole distribution, without top-p. At a temperature other than 1 the
  recorded log-probabilities, and so the ratios, remain those of the untempered policy.
  """

  prompts: int = 32
  group: int = 8  # samples per prompt
  max_new: int = 128
  temperature: float = 1.0
  updates: int = 2  # parts of a rollout, each one update; groups stay whole
  rows: int = 16  # of a micro-batch; an update takes as many micro-batches as it needs
  width: int = 160  # tokens of a row
  share_prompts: bool = False  # of samples in one row: less to compute, wants wide rows
  template: str = "plain"  # of the prompts: see tasks/templates.py
  reward: RewardConfig = RewardConfig()
  advantage: AdvantageConfig = AdvantageConfig()

  def __post_init__(self) -> None:
    for name in ("prompts", "max_new", "updates", "rows", "width"):
      value = getattr(self, name)
      require(value > 0, f"rollout.{name} is {value}; it must be positive.")
    require(self.group > 1, f"rollout.group is {self.group}; a group needs at least two samples.")
    require(
      0 < self.temperature < math.inf,
      f"rollout.temperature is {self.temperature}; it must be positive and finite.",
    )
    require(
      self.updates <= self.prompts,
      f"rollout.updates is {self.updates}; it must not exceed rollout.prompts, {self.prompts}.",
    )
    require(
      self.max_new < self.width,
      f"rollout.max_new is {self.max_new}; it must be below rollout.width, {self.width}, which "
      "holds the prompt as well.",
    )

  @property
  def shape(self) -> tuple[int, int, int]:
    """[M, B, T] of an update's batch, with room for its samples even if no two share a row."""
    samples = -(-self.prompts // self.updates) * self.group
    return -(-samples // self.rows), self.rows, self.width


@dataclasses.dataclass(frozen=True)
class Update:
  """The data of one update, on the host."""

  batch: RolloutBatch  # [M, B, T]
  micro_batches: int  # of M that hold anything


@dataclasses.dataclass(frozen=True)
class Rollout:
  """What one round of sampling gave.

  There are fewer updates than configured where too few groups differ in reward.
  """

  updates: list[Update]
  completions: list[Completion]  # all of them, prompt by prompt
  report: dict[str, float]


def roll_out(
  engine: Engine,
  weights: Weights,
  task: Task,
  tokenizer: Tokenizer,
  config: RolloutConfig,
  seed: int,
  iteration: int,
  transform: Transform | None = None,
) -> Rollout:
  """Rollout number `iteration`: a function of its arguments alone, so that it can be redone."""
  room = config.width - config.max_new
  first = iteration * config.prompts
  problems, left_out = fitting_problems(
    task, tokenizer, first, config.prompts, seed, room, config.template
  )
  params = SamplingParams(max_new=config.max_new, temperature=config.temperature)
  completions = draw(
    engine,
    weights,
    task,
    tokenizer,
    problems,
    config.group,
    params,
    (seed, iteration),
    config.template,
  )
  rewards_BJ = rewards(completions, config.group, config.reward)
  if transform is not None:
    rewards_BJ = transform(rewards_BJ, iteration)
  truncated_BJ = np.array([c.truncated for c in completions]).reshape(rewards_BJ.shape)
  advantages = group_advantages(rewards_BJ, truncated_BJ, config.advantage)
  return Rollout(
    updates=_cut(completions, advantages, config, tokenizer.pad_id, _repeated(weights, config)),
    completions=completions,
    report=_report(completions, rewards_BJ, advantages)
    | ({"left_out": float(left_out)} if left_out else {}),
  )


def _repeated(weights: Weights, config: RolloutConfig) -> int:
  """See `pack`: an MTP module predicts from one token further back."""
  modules = sum(name.startswith("mtp_") for name in weights.params)
  return 1 + modules if config.share_prompts else 0


def _cut(
  completions: list[Completion],
  advantages: Advantages,
  config: RolloutConfig,
  pad_id: int,
  repeated: int,
) -> list[Update]:
  """Deals the groups that teach something to the updates, as evenly as they go."""
  telling = np.flatnonzero(advantages.kept_BJ.any(axis=1))
  updates = []
  for groups in np.array_split(telling, config.updates):
    chosen = [(b, j) for b in groups for j in np.flatnonzero(advantages.kept_BJ[b])]
    if not chosen:
      continue
    part = [completions[b * config.group + j] for b, j in chosen]
    lengths_N = np.array([len(c.tokens) for c in part])
    weight_N = token_weights(lengths_N, config.advantage.normalisation, config.max_new)
    advantage_N = np.array([advantages.advantage_BJ[b, j] for b, j in chosen])
    updates.append(Update(*pack(part, advantage_N, weight_N, config.shape, pad_id, repeated)))
  return updates


def _report(
  completions: list[Completion], rewards_BJ: np.ndarray, advantages: Advantages
) -> dict[str, float]:
  """Means over all samples, whether they enter an update or not."""
  lengths = [len(c.tokens) for c in completions]
  return {
    "reward": float(rewards_BJ.mean()),
    "correct": float(np.mean([c.score.correct for c in completions])),
    "format": float(np.mean([c.score.format for c in completions])),
    "language": float(np.mean([c.score.language for c in completions])),
    "truncated": float(np.mean([c.truncated for c in completions])),
    "length": float(np.mean(lengths)),
    "sampled_tokens": float(np.sum(lengths)),
    "zero_variance": advantages.zero_variance / len(rewards_BJ),
    "kept": float(advantages.kept_BJ.mean()),
    **{
      f"unjudged_{kind}": float(n) for kind, n in failures([c.score for c in completions]).items()
    },
  }
