"""Tasks in several turns: what answers a completion, so that the model goes on.

Such a task has a method more than a `Task`, and may have a second one:

  class Halving:
    ...
    def reply(self, problem, exchange):
      return None if exchange[-1].strip() == str(problem.data) else "no ?"

    def score_exchange(self, problem, exchange):
      return Score(correct=1.0 / len(exchange), format=1.0, language=1.0)

`exchange` is a tuple of texts: what the model said, what was replied, what it said to that, and so
on; the problem's prompt stands before it, and the model spoke last. `reply` gives the text that is
put before the model next, or None where all is said. It must depend on its arguments alone, so
that a run that is resumed hears the same. How often the model may speak is the run's to say
(`rollout.turns`); behind its last turn nothing is asked. `score_exchange` judges the whole; without
it the model's last turn is judged by `score`, which also judges answers that stand alone.

A reply that fails ends its exchange, which counts as wrong, failed for the reason `environment`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from deepseek_jax.config import require
from deepseek_jax.tasks.task import Problem, Task, takes_turns

Exchange = tuple[str, ...]


@runtime_checkable
class Environment(Task, Protocol):
  """A task that answers what a model says."""

  def reply(self, problem: Problem, exchange: Exchange) -> str | None:
    """What is said to the model next; None ends the exchange."""
    ...


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a task answered: a text, nothing (None), or why there is neither, `KIND: SENTENCE`."""

  text: str | None = None
  failure: str = ""


def reply_each(
  task: Task, problems: Sequence[Problem], exchanges: Sequence[Exchange]
) -> list[Reply]:
  """The task's reply to each exchange, whatever it does to fail."""
  many = getattr(task, "reply_each", None)  # of tasks that stand for others
  if many is None:
    replies = [_attempt(task, p, e) for p, e in zip(problems, exchanges, strict=True)]
  else:
    replies = many(problems, exchanges)
  return [_sound(reply) for reply in replies]


def check_turns(task: Task, turns: int, field: str) -> None:
  """ConfigError where a task answers and `turns` is 1, or the reverse; `field` is its name."""
  if takes_turns(task):
    require(
      turns > 1,
      f"the task {task.name!r} answers what a model says, but {field} is {turns}; set it to the "
      "most turns that the model may have, at least 2.",
    )
  else:
    require(
      turns == 1, f"{field} is {turns}, but the task {task.name!r} answers nothing; make it 1."
    )


def refuse_turns(task: Task, what: str) -> None:
  """ConfigError if the task answers what a model says; `what` reads one answer."""
  require(
    not takes_turns(task),
    f"the task {task.name!r} answers what a model says, and {what} reads a single answer; give "
    "another task, or reinforce on this one with experiments.grpo.",
  )


def _attempt(task: Task, problem: Problem, exchange: Exchange) -> Reply:
  try:
    return Reply(task.reply(problem, exchange))  # type: ignore[attr-defined]  # see `takes_turns`
  except (Exception, SystemExit) as error:
    return Reply(failure=f"error: {type(error).__name__}: {error}"[:300])


def _sound(reply: Reply) -> Reply:
  """The reply if it is a text with anything in it, or None."""
  text = reply.text
  if reply.failure or text is None or (isinstance(text, str) and text.strip()):
    return reply
  return Reply(failure=f"text: its reply is {text!r:.100}, which is no text")
