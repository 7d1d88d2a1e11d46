"""From prompts to the batches of a few updates: sample, judge, compare within groups, pack.

With `dynamic` (2503.14476, section 3.2) groups of one mind make room for others: more problems are
drawn, a round of `prompts` at a time, until as many groups teach something or the rounds are used
up. Further rounds have a stream of problems to themselves, of which iteration i and round r have a
fixed stretch, drawn or not. So every iteration's first round gets the problems that it would get
without, none twice and none left out, and what an iteration draws depends on nothing before it. A
task that ends is gone through again and again, by either stream.
"""

import dataclasses
import math

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import Engine, SamplingParams
from deepseek_jax.hosts import group
from deepseek_jax.rl.advantages import (
  AdvantageConfig,
  Advantages,
  first_groups,
  group_advantages,
  token_weights,
)
from deepseek_jax.rl.completions import Completion, draw, fitting_problems
from deepseek_jax.rl.packing import pack
from deepseek_jax.rl.rewards import Judge, RewardConfig, Rewards, Transform, joined, rewards
from deepseek_jax.rl.statistics import statistics, turn_statistics
from deepseek_jax.tasks.task import Task
from deepseek_jax.types import RolloutBatch, Weights

_FURTHER = 2**30  # number of the first problem of further rounds; no run has that many iterations


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
  """What is sampled at a time, and how it is cut into updates.

  Sampling is from the whole distribution, without top-p. At a temperature other than 1 the
  recorded log-probabilities, and so the ratios, remain those of the untempered policy.
  """

  prompts: int = 32
  group: int = 8  # samples per prompt
  dynamic: int = 0  # further rounds of as many prompts at most, for groups of one mind
  turns: int = 1  # of the model at most, where the task answers it: see tasks/environment.py
  max_new: int = 128  # tokens sampled, in all turns together
  temperature: float = 1.0
  updates: int = 2  # parts of a rollout, each one update; groups stay whole
  rows: int = 16  # of a micro-batch; an update takes as many micro-batches as it needs
  width: int = 160  # tokens of a row, in which a prompt, its sample and all replies must fit
  share_prompts: bool = False  # of samples in one row: less to compute, wants wide rows
  template: str = "plain"  # of the prompts: see tasks/templates.py
  reward: RewardConfig = RewardConfig()
  advantage: AdvantageConfig = AdvantageConfig()

  def __post_init__(self) -> None:
    for name in ("prompts", "turns", "max_new", "updates", "rows", "width"):
      value = getattr(self, name)
      require(value > 0, f"rollout.{name} is {value}; it must be positive.")
    require(self.dynamic >= 0, f"rollout.dynamic is {self.dynamic}; it must not be negative.")
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
    require(
      self.turns == 1 or not self.reward.learned.weight,
      f"rollout.turns is {self.turns}, but a reward model reads one answer to one question; make "
      "it 1, or reward.learned.weight 0.",
    )
    self.reward.check(self.max_new, self.advantage.truncated)

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
class Round:
  """Samples of as many problems as `prompts` says, judged and compared within their groups."""

  completions: list[Completion]  # prompt by prompt
  rewards: Rewards
  advantages: Advantages
  left_out: int  # problems whose prompts are too long

  @property
  def telling(self) -> int:
    """Groups that teach something."""
    return int(self.advantages.kept_BJ.any(axis=1).sum())


@dataclasses.dataclass(frozen=True)
class Rollout:
  """What an iteration's sampling gave.

  There are fewer updates than configured where too few groups differ in reward.
  """

  updates: list[Update]
  completions: list[Completion]  # all of them, prompt by prompt
  rewards: Rewards
  advantages: Advantages  # `kept_BJ`: what entered the updates
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
  judge: Judge | None = None,
) -> Rollout:
  """Rollout number `iteration`: a function of its arguments alone, so that it can be redone.

  `judge` is the reward model of `config.reward.learned`, where that is in use.
  """
  rounds: list[Round] = []
  while not rounds or (
    len(rounds) <= config.dynamic and sum(r.telling for r in rounds) < config.prompts
  ):
    rounds.append(
      _round(
        engine, weights, task, tokenizer, config, seed, iteration, len(rounds), transform, judge
      )
    )
  completions = [one for r in rounds for one in r.completions]
  judged = joined([r.rewards for r in rounds])
  advantages = first_groups([r.advantages for r in rounds], config.prompts)
  return Rollout(
    updates=_cut(completions, advantages, config, tokenizer.pad_id, _repeated(weights, config)),
    completions=completions,
    rewards=judged,
    advantages=advantages,
    report=statistics(completions, judged, advantages)
    | (turn_statistics(completions) if config.turns > 1 else {})
    | _drawn(rounds, config, advantages),
  )


def _round(
  engine: Engine,
  weights: Weights,
  task: Task,
  tokenizer: Tokenizer,
  config: RolloutConfig,
  seed: int,
  iteration: int,
  number: int,
  transform: Transform | None,
  judge: Judge | None,
) -> Round:
  """Round `number` of an iteration; the first, 0, is all there is without `dynamic`."""
  first = iteration * config.prompts
  if number:
    first = _FURTHER + (iteration * config.dynamic + number - 1) * config.prompts
  room = config.width - config.max_new
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
    place=number * config.prompts,
    turns=config.turns,
    room=config.width,
  )
  judged = group.from_first(
    lambda: rewards(completions, config.group, config.reward, config.max_new, judge)
  )
  if transform is not None:
    judged = dataclasses.replace(judged, total_BJ=transform(judged.total_BJ, iteration))
  truncated_BJ = np.array([c.truncated for c in completions]).reshape(judged.total_BJ.shape)
  advantages = group_advantages(judged.total_BJ, truncated_BJ, config.advantage)
  return Round(completions, judged, advantages, left_out)


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
    lengths_N = np.array([c.sampled for c in part])
    weight_N = token_weights(lengths_N, config.advantage.normalisation, config.max_new)
    advantage_N = np.array([advantages.advantage_BJ[b, j] for b, j in chosen])
    updates.append(Update(*pack(part, advantage_N, weight_N, config.shape, pad_id, repeated)))
  return updates


def _drawn(rounds: list[Round], config: RolloutConfig, advantages: Advantages) -> dict[str, float]:
  """Prompts that did not fit; with `dynamic`, rounds, their prompts, the share that is unused."""
  left_out = sum(r.left_out for r in rounds)
  found = {"left_out": float(left_out)} if left_out else {}
  if config.dynamic:
    groups = len(advantages.kept_BJ)
    used = np.count_nonzero(advantages.kept_BJ.any(axis=1))
    found |= {
      "rounds": float(len(rounds)),
      "prompts_drawn": float(groups),
      "dropped": 1 - used / groups,
    }
  return found
