"""Judging many completions, where no verifier ends a run: what fails is counted and told.

The kinds of failure: `error` (it raised), `range` (no figure in [0, 1]), and of those in processes
of their own `time`, `memory`, `output`, `refused` (it wanted more than to compute) and `died`; of
programs `infrastructure` (the sandbox or the tests failed, again and again, and not the program);
of exchanges `environment` (the task's reply failed, by one of these kinds).
"""

import collections
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.task import Problem, Score, Task, takes_turns

_FIGURES = ("correct", "format", "language")


def score_each(task: Task, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
  """The score of each text for the problem beside it; zeros and a `failure` where there is none."""
  scores = _together(task, "score_each", problems, texts)
  if scores is None:
    scores = [_attempt(task.score, p, t) for p, t in zip(problems, texts, strict=True)]
  return [_sound(score) for score in scores]


def score_exchanges(
  task: Task, problems: Sequence[Problem], exchanges: Sequence[tuple[str, ...]]
) -> list[Score]:
  """The score of each exchange (see `environment.py`), as in `score_each`."""
  scores = _together(task, "score_exchanges", problems, exchanges) if takes_turns(task) else None
  if scores is None:
    judge = getattr(task, "score_exchange", None) if takes_turns(task) else None
    if judge is None:
      return score_each(task, problems, [said[-1] for said in exchanges])
    scores = [_attempt(judge, p, said) for p, said in zip(problems, exchanges, strict=True)]
  return [_sound(score) for score in scores]


def failed(message: str, score: Score | None = None) -> Score:
  """The score of a text that could not be judged; its form and language are those of `score`."""
  form, language = (score.format, score.language) if score else (0.0, 0.0)
  return Score(correct=0.0, format=form, language=language, failure=" ".join(message.split()))


def failures(scores: Sequence[Score]) -> dict[str, int]:
  """How many failed, by kind, the most frequent first."""
  return dict(collections.Counter(s.failed for s in scores if s.failure).most_common())


def tell_failures(name: str, scores: Sequence[Score]) -> None:
  """Says on standard error what `failures` counts, with the first sentence of each kind."""
  found = failures(scores)
  if not found:
    return
  first = {score.failed: score.failure for score in reversed(scores)}
  each = "; ".join(f"{count} for {first[kind]}" for kind, count in found.items())
  print(
    f"{name} could not judge {sum(found.values())} of {len(scores)} completions, which count as "
    f"wrong: {each}",
    file=sys.stderr,
    flush=True,
  )


def _together(
  task: Task, method: str, problems: Sequence[Problem], said: Sequence[Any]
) -> list[Score] | None:
  """The scores by the task's own method for many; None if it has none, or fails."""
  many = getattr(task, method, None)
  try:
    scores = None if many is None else list(many(problems, said))
  except ConfigError:
    raise
  except Exception:  # one of the texts is the reason, and is found one by one
    return None
  return scores if scores is not None and len(scores) == len(said) else None


def _attempt(judge: Callable[[Problem, Any], Score], problem: Problem, said: Any) -> Score:
  """The judge's score, whatever it does to fail."""
  try:
    return judge(problem, said)
  except (Exception, SystemExit) as error:
    return failed(f"error: {type(error).__name__}: {error}"[:300])


def _sound(score: Score) -> Score:
  """The score if its figures are numbers in [0, 1]; a task's own kind of score becomes ours."""
  values = [getattr(score, name, None) for name in _FIGURES]
  for name, value in zip(_FIGURES, values, strict=True):
    if not _is_share(value):
      return failed(f"range: its figure {name!r} is {value!r}"[:300])
  if not isinstance(score, Score):
    return Score(*map(float, values))
  if score.said is not None and not _is_share(score.said):
    return failed(f"range: its figure 'said' is {score.said!r}"[:300])
  return score


def _is_share(value: object) -> bool:
  try:
    number = float(value)  # type: ignore[arg-type]  # arrays of one number are numbers too
  except (TypeError, ValueError):
    return False
  return math.isfinite(number) and 0 <= number <= 1
