"""Signed countdown: give each of three or four digits a sign so that they add up to a target.

A restriction of reasoning-gym's countdown to + and - with the digits in a fixed order.

  prompt   make TARGET from D D D [D] ?      凑 TARGET 用 D D D [D] ?
  answer   the signed digits in their order: `3 7 -2`; also `3 + 7 - 2` or `3+7-2`
"""

import dataclasses
import re

from deepseek_jax.tasks.holdout import split_of
from deepseek_jax.tasks.languages import LANGUAGES, language_share, word
from deepseek_jax.tasks.response import parse_response, thought_of
from deepseek_jax.tasks.settings import check_range
from deepseek_jax.tasks.task import Candidate, Problem, Score, Split, stream
from deepseek_jax.tasks.trials import countdown_trials

NAME = "countdown"
LONGEST_ANSWER = 100  # characters; more cannot be an answer and is not parsed
_TERMS = re.compile(r"[+-]?\s*[0-9]{1,4}(?:(?:\s*[+-]\s*|\s+)[0-9]{1,4})*", re.ASCII)
_TERM = re.compile(r"([+-]?)\s*([0-9]{1,4})", re.ASCII)


@dataclasses.dataclass(frozen=True)
class CountdownData:
  """What a problem asks."""

  digits: tuple[int, ...]
  target: int


@dataclasses.dataclass(frozen=True)
class Countdown:
  """The task; problems have `min_digits` to `max_digits` digits, 1 to 9."""

  min_digits: int = 3
  max_digits: int = 4

  def __post_init__(self) -> None:
    check_range(NAME, min_digits=self.min_digits, max_digits=self.max_digits)

  @property
  def name(self) -> str:
    """Identifies the task."""
    return NAME

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`. The target is that of random signs, the first digit's being plus."""
    rng = stream(seed, NAME, split, index)
    while True:
      digits = tuple(
        rng.randint(1, 9) for _ in range(rng.randint(self.min_digits, self.max_digits))
      )
      if split_of(digits) == split:
        break
    target = digits[0] + sum(rng.choice((-1, 1)) * digit for digit in digits[1:])
    return countdown_problem(digits, target, language or rng.choice(LANGUAGES))

  def score(self, problem: Problem, text: str) -> Score:
    """Right if the signed digits, each once and in order, add up to the target."""
    response = parse_response(text)
    language = language_share(thought_of(text), problem.language)
    if response is None:
      return Score(correct=0.0, format=0.0, language=language)
    terms = parse_terms(response.answer)
    data = problem.data
    right = (
      terms is not None
      and tuple(map(abs, terms)) == tuple(data.digits)
      and sum(terms) == data.target
    )
    return Score(correct=float(right), format=1.0, language=language)

  def candidates(self, problem: Problem, thought: str) -> list[Candidate]:
    """The answers that a thought tries; see `trials.py`."""
    return countdown_trials(thought)


def countdown_problem(digits: tuple[int, ...], target: int, language: str) -> Problem:
  """The problem of reaching `target` with `digits`, asked in `language`."""
  listed = " ".join(map(str, digits))
  return Problem(
    prompt=f"{word('make', language)} {target} {word('from', language)} {listed} ?",
    task=NAME,
    key=f"{NAME} {listed} = {target}",
    language=language,
    data=CountdownData(digits, target),
  )


def parse_terms(text: str) -> tuple[int, ...] | None:
  """The signed integers of a sum written `3 -7 2` or `3 - 7 + 2`; None if it is anything else."""
  text = text.strip()
  if len(text) > LONGEST_ANSWER or not _TERMS.fullmatch(text):
    return None
  return tuple(int(sign + digits) for sign, digits in _TERM.findall(text))
