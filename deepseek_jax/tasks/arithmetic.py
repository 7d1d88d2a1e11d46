"""Arithmetic asked in plain English: what a small pretrained model begins to be able to do.

Unlike the minis' tasks it needs no vocabulary of its own. A question is of one of five kinds:

  What is 47 + 8?   What is 6 * 7?   What is 53 - 9?   What is half of 34?
  Which number is larger, 56 or 65?

Strictly judged, the answer stands between answer tags behind a thought (see `response.py`); `said`
is that the last number of the text is right, whatever its form.
"""

import dataclasses
import random
import re
from collections.abc import Sequence

from deepseek_jax.config import require
from deepseek_jax.tasks.holdout import split_of_text
from deepseek_jax.tasks.languages import language_share
from deepseek_jax.tasks.response import parse_response, thought_of
from deepseek_jax.tasks.task import Problem, Score, Split, stream

NAME = "arithmetic"
KINDS = ("add", "multiply", "subtract", "halve", "compare")
_NUMBER = re.compile(r"(?<![\w.])-?[0-9]{1,9}(?![\w]|\.[0-9])", re.ASCII)
_INTEGER = re.compile(r"-?[0-9]{1,9}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Question:
  """One question: its kind and its two numbers, in the order in which they are named."""

  kind: str  # one of KINDS
  a: int
  b: int = 2

  @property
  def text(self) -> str:
    """As it is asked."""
    if self.kind == "halve":
      return f"What is half of {self.a}?"
    if self.kind == "compare":
      return f"Which number is larger, {self.a} or {self.b}?"
    sign = {"add": "+", "subtract": "-", "multiply": "*"}[self.kind]
    return f"What is {self.a} {sign} {self.b}?"

  @property
  def answer(self) -> int:
    """The right answer."""
    match self.kind:
      case "add":
        return self.a + self.b
      case "subtract":
        return self.a - self.b
      case "multiply":
        return self.a * self.b
      case "halve":
        return self.a // 2
    return max(self.a, self.b)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
  """The task; questions are of `kinds`, one as frequent as the other."""

  kinds: tuple[str, ...] = KINDS

  def __post_init__(self) -> None:
    known = isinstance(self.kinds, tuple) and all(kind in KINDS for kind in self.kinds)
    require(
      known and len(self.kinds) > 0,
      f"task {NAME} has kinds={self.kinds!r}; give a list of some of {', '.join(KINDS)}.",
    )

  @property
  def name(self) -> str:
    """Identifies the task."""
    return NAME

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`. The questions are English, whatever `language` says."""
    rng = stream(seed, NAME, split, index)
    while True:
      question = draw(rng.choice(self.kinds), rng)
      if split_of_text(question.text) == split:
        return Problem(
          prompt=question.text,
          task=NAME,
          key=f"{NAME} {question.text}",
          data=question,
          answer=str(question.answer),
        )

  def score(self, problem: Problem, text: str) -> Score:
    """Right if the answer is the number; `said` if the last number is."""
    response, wanted = parse_response(text), problem.data.answer
    answer = response.answer if response is not None else ""
    return Score(
      correct=float(bool(_INTEGER.fullmatch(answer)) and int(answer) == wanted),
      format=float(response is not None),
      language=language_share(thought_of(text), problem.language),
      said=float(last_number(text) == wanted),
    )


def draw(kind: str, rng: random.Random) -> Question:
  """A question of a kind."""
  match kind:
    case "add":
      return Question(kind, rng.randint(2, 99), rng.randint(2, 9))
    case "subtract":
      return Question(kind, rng.randint(11, 99), rng.randint(2, 9))
    case "multiply":
      return Question(kind, rng.randint(2, 9), rng.randint(2, 9))
    case "halve":
      return Question(kind, 2 * rng.randint(2, 49))
  a, b = rng.sample(range(10, 100), 2)
  return Question(kind, a, b)


def last_number(text: str) -> int | None:
  """The last integer that stands by itself in a text; in linear time."""
  found: Sequence[str] = _NUMBER.findall(text)
  return int(found[-1]) if found else None
