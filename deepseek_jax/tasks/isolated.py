"""A user's task whose verifier runs in processes of its own: `isolated:package.module:name`.

There it sees its own module or package, and no other files but those that the task names in an
attribute `files`, a sequence of paths.
"""

import dataclasses
from collections.abc import Sequence

from deepseek_jax.tasks.scoring import failed
from deepseek_jax.tasks.task import Problem, Score, Split, Task
from deepseek_jax.tasks.workers import Outcome, workers

_MAKER = "deepseek_jax.tasks.registry:figures_of"


@dataclasses.dataclass(frozen=True)
class Isolated:
  """`task` as it is but for its scoring, which `workers.py` does; `spec` is its name elsewhere."""

  task: Task
  spec: str

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
    pool = workers(_MAKER, (self.spec,), tuple(getattr(self.task, "files", ())))
    return [_score(outcome) for outcome in pool.call(list(zip(problems, texts, strict=True)))]


def _score(outcome: Outcome) -> Score:
  if outcome.failure:
    return failed(f"{outcome.failure}: {outcome.message}")
  return Score(*outcome.value)
