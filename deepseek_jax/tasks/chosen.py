"""Problems of another task that a preflight chose: `chosen:FILE.jsonl`, or `chosen:FILE.jsonl@all`.

What a model solves always or never teaches it nothing. `experiments.grpo --preflight_keep=FILE`
writes those that the start model solves now and then, a line each: {"task", "seed", "index", "key",
"solved", ...}, from which they are made again. What is held out is what the task holds out; with
`@all` both splits are the chosen ones, to measure how far they were learnt.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError, require
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.environment import Exchange, Reply, reply_each
from deepseek_jax.tasks.judging import elsewhere
from deepseek_jax.tasks.rounds import in_rounds
from deepseek_jax.tasks.scoring import score_each, score_exchanges
from deepseek_jax.tasks.task import Problem, Score, Split, Task, takes_turns

_ALL = "@all"
_FIELDS = {"task": str, "seed": int, "index": int, "key": str}


@dataclasses.dataclass(frozen=True)
class Chosen:
  """Training problems of `task` that a file names; they come around again in ever new orders."""

  name: str
  task: Task
  problems: tuple[Problem, ...]
  undivided: bool = False

  @property
  def file(self) -> Path:
    """Where the choice is kept."""
    return _file(self.name.removeprefix("chosen:"))

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`; a chosen problem is in the language it was drawn in."""
    if split == "heldout" and not self.undivided:
      return self.task.sample(split, index, seed, language)
    return in_rounds(self.problems, "chosen", split, index, seed)  # wherever the file lies

  def score(self, problem: Problem, text: str) -> Score:
    """See `Task.score`."""
    return self.task.score(problem, text)

  def score_each(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
    """See `scoring.score_each`."""
    return score_each(self.task, problems, texts)

  @property
  def names(self) -> frozenset[str]:
    """Of the tasks that the problems say they are of, for a `Mixture` that this is a part of."""
    return frozenset(problem.task for problem in self.problems)

  @property
  def elsewhere(self) -> bool:
    """See `judging.elsewhere`."""
    return elsewhere(self.task)

  @property
  def takes_turns(self) -> bool:
    """See `task.takes_turns`."""
    return takes_turns(self.task)

  def reply_each(self, problems: Sequence[Problem], exchanges: Sequence[Exchange]) -> list[Reply]:
    """See `environment.reply_each`."""
    return reply_each(self.task, problems, exchanges)

  def score_exchanges(
    self, problems: Sequence[Problem], exchanges: Sequence[Exchange]
  ) -> list[Score]:
    """See `scoring.score_exchanges`."""
    return score_exchanges(self.task, problems, exchanges)


def load_chosen(name: str, load: Callable[[str], Task]) -> Chosen:
  """The task `chosen:NAME`, whose own task `load` finds.

  Raises:
    ConfigError: there is no such file, a line of it names no problem, or its task has changed.
  """
  file = _file(name)
  require(file.is_file(), f"chosen:{name}: there is no file {file}; make it by --preflight_keep.")
  rows = [_row(line, f"{file}, line {i}") for i, line in enumerate(_lines(file), start=1)]
  require(bool(rows), f"{file} names no problem; choose again, from another task or model.")
  specs = sorted({row["task"] for row in rows})
  require(len(specs) == 1, f"{file} names problems of several tasks: {', '.join(specs)}.")
  inner = specs[0].removeprefix("chosen:")
  require(
    inner == specs[0] or _file(inner).absolute() != file.absolute(),
    f"{file} names problems of itself; choose again, into another file.",
  )
  task = load(specs[0])
  problems = []
  for number, row in enumerate(rows, start=1):
    problem = _drawn(task, row)
    require(
      problem is not None and _same(problem, row),
      f"{file}, line {number}: the task {specs[0]} gives another problem now; choose again.",
    )
    assert problem is not None
    problems.append(problem)
  return Chosen(f"chosen:{name}", task, tuple(problems), name.endswith(_ALL))


def _same(problem: Problem, row: dict[str, Any]) -> bool:
  """Whether a problem is the one that was chosen; of a file the key is but its place there."""
  told = {"key": problem.key, "prompt": problem.prompt, "answer": problem.answer}
  return all(told[name] == row.get(name, told[name]) for name in told)


def _drawn(task: Task, row: dict[str, Any]) -> Problem | None:
  """A row's problem, if its task has that many."""
  try:
    return task.sample("train", row["index"], row["seed"])
  except IndexError:
    return None


def _file(name: str) -> Path:
  return local_path(name.removesuffix(_ALL))


def _lines(file: Path) -> list[str]:
  try:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
  except UnicodeDecodeError as error:
    raise ConfigError(f"{file} is no text: {error}.") from error


def _row(line: str, where: str) -> dict[str, Any]:
  """A line's fields."""
  try:
    row = json.loads(line)
  except ValueError as error:
    raise ConfigError(f"{where} is no JSON: {error}.") from error
  for name, kind in _FIELDS.items():
    found = row.get(name) if isinstance(row, dict) else None
    require(
      type(found) is kind,
      f'{where} has no {kind.__name__} in the field "{name}"; --preflight_keep writes such files.',
    )
  return row
