"""A user's task whose verifier runs in processes of its own: `isolated:package.module:name`.

There it sees its own module or package, and no other files but those that the task names in an
attribute `files`, a sequence of paths. The replies of one that answers what a model says run there
too; they have at most as many characters as `worker.LONGEST` leaves.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from deepseek_jax.tasks.environment import Exchange, Reply
from deepseek_jax.tasks.scoring import failed
from deepseek_jax.tasks.task import Problem, Score, Split, Task, takes_turns
from deepseek_jax.tasks.workers import Outcome, workers

_MAKER = "deepseek_jax.tasks.registry:calls_of"


@dataclasses.dataclass(frozen=True)
class Isolated:
  """`task` as it is but for its scoring, which `workers.py` does; `spec` is its name elsewhere."""

  task: Task
  spec: str
  elsewhere = True  # see tasks/judging.py

  @property
  def name(self) -> str:
    """Identifies the task."""
    return self.task.name

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`."""
    return self.task.sample(split, index, seed, language)

  def score(self, problem: Problem, text: str) -> Score:
    """See `Task.score`."""
    return self.score_each([problem], [text])[0]

  def score_each(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
    """See `scoring.score_each`."""
    return [_score(outcome) for outcome in self._call("score", problems, texts)]

  @property
  def takes_turns(self) -> bool:
    """See `task.takes_turns`."""
    return takes_turns(self.task)

  def reply_each(self, problems: Sequence[Problem], exchanges: Sequence[Exchange]) -> list[Reply]:
    """See `environment.reply_each`."""
    return [
      Reply(failure=f"{outcome.failure}: {outcome.message}")
      if outcome.failure
      else Reply(outcome.value)
      for outcome in self._call("reply", problems, exchanges)
    ]

  def score_exchanges(
    self, problems: Sequence[Problem], exchanges: Sequence[Exchange]
  ) -> list[Score]:
    """See `scoring.score_exchanges`."""
    if not hasattr(self.task, "score_exchange"):
      return self.score_each(problems, [said[-1] for said in exchanges])
    return [_score(outcome) for outcome in self._call("score_exchange", problems, exchanges)]

  def _call(self, method: str, problems: Sequence[Problem], said: Sequence[Any]) -> list[Outcome]:
    """What the task's method gives for each."""
    calls = [(method, problem, one) for problem, one in zip(problems, said, strict=True)]
    files = tuple(getattr(self.task, "files", ()))
    return workers(_MAKER, (self.spec,), files).call(calls)


def _score(outcome: Outcome) -> Score:
  if outcome.failure:
    return failed(f"{outcome.failure}: {outcome.message}")
  return Score(*outcome.value)
