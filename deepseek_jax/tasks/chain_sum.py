"""Chain sums of one-digit terms; reasoning-gym's chain_sum with signs written into the terms.

prompt   sum T T T T [T T T T] ?   求和 T T T T [T T T T] ?   where `3 -7 2 5` is 3 - 7 + 2 + 5
answer   one integer
"""

import dataclasses
import re

from deepseek_jax.tasks.holdout import split_of
from deepseek_jax.tasks.languages import LANGUAGES, language_share, word
from deepseek_jax.tasks.response import parse_response, thought_of
from deepseek_jax.tasks.settings import check_range
from deepseek_jax.tasks.task import Candidate, Problem, Score, Split, stream
from deepseek_jax.tasks.trials import chain_sum_passes

NAME = "chain_sum"
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class ChainSum:
  """The task; problems have `min_terms` to `max_terms` terms, the first of them positive."""

  min_terms: int = 4
  max_terms: int = 8

  def __post_init__(self) -> None:
    check_range(NAME, min_terms=self.min_terms, max_terms=self.max_terms)

  @property
  def name(self) -> str:
    """Identifies the task."""
    return NAME

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`."""
    rng = stream(seed, NAME, split, index)
    while True:
      digits = [rng.randint(1, 9) for _ in range(rng.randint(self.min_terms, self.max_terms))]
      if split_of(digits) == split:
        break
    terms = (digits[0], *(rng.choice((-1, 1)) * digit for digit in digits[1:]))
    return chain_sum_problem(terms, language or rng.choice(LANGUAGES))

  def score(self, problem: Problem, text: str) -> Score:
    """Right if the answer is the sum."""
    response = parse_response(text)
    language = language_share(thought_of(text), problem.language)
    if response is None:
      return Score(correct=0.0, format=0.0, language=language)
    right = _INTEGER.fullmatch(response.answer) and int(response.answer) == sum(problem.data)
    return Score(correct=float(bool(right)), format=1.0, language=language)

  def candidates(self, problem: Problem, thought: str) -> list[Candidate]:
    """The answers that a thought's passes lead to; see `trials.py`."""
    return chain_sum_passes(thought, problem.data)


def chain_sum_problem(terms: tuple[int, ...], language: str) -> Problem:
  """The problem of adding `terms`, asked in `language`; its data are the terms."""
  listed = " ".join(map(str, terms))
  return Problem(
    prompt=f"{word('sum', language)} {listed} ?",
    task=NAME,
    key=f"{NAME} {listed}",
    language=language,
    data=terms,
    answer=str(sum(terms)),
  )
