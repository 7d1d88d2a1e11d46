"""Guessing a number: each guess is answered by `low` or `high`, as bisection wants it.

  prompt   low FROM high TO ?        低 FROM 高 TO ?       the number is one of these or between
  reply    low ? or high ?           低 ? or 高 ?          the guess was too low, too high
           check ?                   检查 ?                it was no integer

A guess stands between the answer's tags, or is all that is said. Of n numbers bisection finds any
within t turns if n < 2**t; one guess alone is right once in n.
"""

import dataclasses
import re

from deepseek_jax.config import require
from deepseek_jax.tasks.environment import Exchange
from deepseek_jax.tasks.holdout import split_of
from deepseek_jax.tasks.languages import LANGUAGES, language_share, word
from deepseek_jax.tasks.response import parse_response, thought_of
from deepseek_jax.tasks.task import Problem, Score, Split, stream

NAME = "guess"
_LARGEST = 199  # the word tokenizer's
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Guess:
  """The task; a problem hides one of `numbers` numbers. `largest` is the highest there is."""

  numbers: int = 15
  largest: int = _LARGEST

  def __post_init__(self) -> None:
    whole = type(self.numbers) is type(self.largest) is int
    require(
      whole and 1 < self.numbers <= self.largest <= _LARGEST,
      f"task guess hides one of {self.numbers} numbers up to {self.largest}; give at least 2, and "
      f"no number above {_LARGEST}.",
    )

  @property
  def name(self) -> str:
    """Identifies the task."""
    return NAME

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`. The range is held out or not, whatever it hides."""
    rng = stream(seed, NAME, split, index)
    low, high = rng.choice(self._ranges(split))
    return guess_problem(low, high, rng.randint(low, high), language or rng.choice(LANGUAGES))

  def _ranges(self, split: Split) -> list[tuple[int, int]]:
    """The ranges of a split; ConfigError if it has none."""
    lows = range(1, self.largest - self.numbers + 2)
    ranges = [(low, low + self.numbers - 1) for low in lows]
    found = [both for both in ranges if split_of(both) == split]
    require(
      len(found) > 0,
      f"guess has no range of {self.numbers} numbers up to {self.largest} in the {split} split; "
      "raise `largest`.",
    )
    return found

  def reply(self, problem: Problem, exchange: Exchange) -> str | None:
    """Whether the last guess was too low or too high; None if it was right."""
    guess, number = guess_of(exchange[-1]), problem.data
    if guess == number:
      return None
    meaning = "check" if guess is None else "low" if guess < number else "high"
    return f"{word(meaning, problem.language)} ?"

  def score(self, problem: Problem, text: str) -> Score:
    """See `score_exchange`, of one guess."""
    return self.score_exchange(problem, (text,))

  def score_exchange(self, problem: Problem, exchange: Exchange) -> Score:
    """Right if the last guess is; the form is that of R1 in every turn."""
    turns = exchange[::2]
    return Score(
      correct=float(guess_of(turns[-1]) == problem.data),
      format=float(all(parse_response(text) is not None for text in turns)),
      language=language_share(" ".join(map(thought_of, turns)), problem.language),
    )


def guess_problem(low: int, high: int, number: int, language: str) -> Problem:
  """The problem of finding `number`, which is its data, from `low` to `high`."""
  return Problem(
    prompt=f"{word('low', language)} {low} {word('high', language)} {high} ?",
    task=NAME,
    key=f"{NAME} {low} {high} {number}",
    language=language,
    data=number,
    answer=str(number),
  )


def guess_of(text: str) -> int | None:
  """The integer between the answer's tags, or that the whole text is; None if there is none."""
  response = parse_response(text)
  said = text.strip() if response is None else response.answer
  return int(said) if _INTEGER.fullmatch(said) else None
