"""Several tasks as one: each problem is drawn from one of them."""

import bisect
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from deepseek_jax.config import require
from deepseek_jax.tasks.chain_sum import ChainSum
from deepseek_jax.tasks.countdown import Countdown
from deepseek_jax.tasks.environment import Exchange, Reply, reply_each
from deepseek_jax.tasks.judging import elsewhere
from deepseek_jax.tasks.scoring import score_each, score_exchanges
from deepseek_jax.tasks.task import (
  Candidate,
  Problem,
  Score,
  Split,
  Task,
  fraction,
  takes_turns,
)


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Problems of `tasks` in proportion to `weights`; each is judged by the task it came from."""

  tasks: tuple[Task, ...]
  weights: tuple[float, ...]
  name: str = "mixture"

  def __post_init__(self) -> None:
    require(len(self.tasks) > 0, "a mixture of tasks is empty; name at least one task.")
    require(
      len(self.weights) == len(self.tasks) and min(self.weights) > 0,
      f"mixture weights are {self.weights}; give one positive weight per task.",
    )
    names = [task.name for task in self.tasks]
    require(len(set(names)) == len(names), f"a mixture names a task twice: {', '.join(names)}.")

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`."""
    place = fraction(seed, self.name, split, index) * sum(self.weights)
    chosen = self.tasks[min(bisect.bisect(self._ends, place), len(self.tasks) - 1)]
    try:
      return chosen.sample(split, index, seed, language)
    except IndexError:  # of a task that ends, whose problems then come again
      size = _size(chosen, split, index, seed)
      require(size > 0, f"the task {chosen.name!r} of a mixture has no {split} problems.")
      return chosen.sample(split, index % size, seed, language)

  @functools.cached_property
  def _ends(self) -> list[float]:
    return list(itertools.accumulate(self.weights))

  def score(self, problem: Problem, text: str) -> Score:
    """Judges by the problem's own task."""
    return self._task_of(problem).score(problem, text)

  def score_each(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
    """Judges by the problems' own tasks, each of which gets all of its problems at once."""
    return self._by_task(score_each, problems, texts)

  @property
  def elsewhere(self) -> bool:
    """See `judging.elsewhere`: whether all of the tasks are judged in other processes."""
    return all(map(elsewhere, self.tasks))

  @property
  def takes_turns(self) -> bool:
    """See `task.takes_turns`: whether any of the tasks does."""
    return any(map(takes_turns, self.tasks))

  def reply_each(self, problems: Sequence[Problem], exchanges: Sequence[Exchange]) -> list[Reply]:
    """Replies of the problems' own tasks; those that answer nothing have said all."""
    return self._by_task(_reply_each, problems, exchanges)

  def score_exchanges(
    self, problems: Sequence[Problem], exchanges: Sequence[Exchange]
  ) -> list[Score]:
    """Judges by the problems' own tasks, as `score_each` does."""
    return self._by_task(score_exchanges, problems, exchanges)

  def _by_task(
    self,
    call: Callable[[Task, Sequence[Problem], Sequence[Any]], list[Any]],
    problems: Sequence[Problem],
    said: Sequence[Any],
  ) -> list[Any]:
    """What `call` gives for each problem, task by task."""
    found: dict[int, Any] = {}
    owners = [self._task_of(problem) for problem in problems]
    for task in self.tasks:
      places = [i for i, owner in enumerate(owners) if owner is task]
      results = call(task, [problems[i] for i in places], [said[i] for i in places])
      found.update(zip(places, results, strict=True))
    return [found[i] for i in range(len(problems))]

  def candidates(self, problem: Problem, thought: str) -> Sequence[Candidate] | None:
    """What the problem's own task finds; None if it finds none in any thought."""
    find = getattr(self._task_of(problem), "candidates", None)
    return None if find is None else find(problem, thought)

  def _task_of(self, problem: Problem) -> Task:
    for task in self.tasks:
      if problem.task in getattr(task, "names", (task.name,)):
        return task
    raise ValueError(
      f"the problem {problem.key!r} is of task {problem.task!r}, not of this mixture"
    )


def _reply_each(
  task: Task, problems: Sequence[Problem], exchanges: Sequence[Exchange]
) -> list[Reply]:
  if not takes_turns(task):
    return [Reply()] * len(problems)
  return reply_each(task, problems, exchanges)


def split_mixture(spec: str) -> list[tuple[float, str]]:
  """The weights and names in `0.6 * countdown + 0.4 * chain_sum`; of a single task its own.

  ConfigError where a weight is no positive number.
  """
  parts = [part.strip() for part in spec.split(" + ")]
  if len(parts) == 1:
    return [(1.0, spec)]
  found = []
  for part in parts:
    weight, times, name = part.partition("*") if re.match(r"[^(:/]*\*", part) else ("", "", part)
    try:
      value = float(weight) if times else 1.0
    except ValueError:
      value = math.nan
    require(
      0 < value < math.inf,
      f"task {spec!r}: {weight.strip()!r} is no positive number; a mixture is 0.6 * countdown + "
      "0.4 * chain_sum.",
    )
    found.append((value, name.strip()))
  return found


def mixed(spec: str, parts: Sequence[tuple[float, Task]]) -> Mixture:
  """The mixture of weighted tasks; of one that is a mixture itself, its tasks."""
  weights: list[float] = []
  tasks: list[Task] = []
  for weight, task in parts:
    inner = [(1.0, task)]
    if isinstance(task, Mixture):
      inner = [(w / sum(task.weights), t) for w, t in zip(task.weights, task.tasks, strict=True)]
    weights += [weight * share for share, _ in inner]
    tasks += [one for _, one in inner]
  return Mixture(tuple(tasks), tuple(weights), name=spec)


def _size(task: Task, split: Split, bound: int, seed: int) -> int:
  """How many problems a task has that has not more than `bound`."""
  low, high = 0, bound
  while low < high:
    middle = (low + high) // 2
    try:
      task.sample(split, middle, seed)
      low = middle + 1
    except IndexError:
      high = middle
  return low


def mini_mixture() -> Mixture:
  """Six signed countdowns to four chain sums of 3 to 6 terms: what the mini models learn."""
  return Mixture((Countdown(), ChainSum(3, 6)), (0.6, 0.4), name="mini")


def tiny_mixture() -> Mixture:
  """Countdowns of two digits and sums of two terms: what a model learns in a minute."""
  return Mixture((Countdown(2, 2), ChainSum(2, 2)), (0.6, 0.4), name="tiny")
