r"""Mathematics judged by Math-Verify; an extra: pip install 'deepseek-jax[math]'.

It runs in processes of its own (see `tasks/workers.py`), which also limits its time: its own limits
are signals, which only reach a main thread. Math-Verify looks for mathematics in any text. Of an
answer all must be mathematics, so that `5 or 6` is not 6 and `Paris` no product of its letters;
what is not is left to `answers.py`.
"""

import functools
import importlib.metadata
import re
from collections.abc import Callable, Sequence
from typing import Any

from deepseek_jax.evaluate.answers import TEXT_COMMANDS, equal_numbers, gold_answer, read_answer
from deepseek_jax.tasks.workers import Outcome, workers

_LONGEST = 2000  # characters of an answer
_COMMAND = re.compile(
  rf"(?:{TEXT_COMMANDS}|\\(?:operatorname|begin|end))\s*\{{[^{{}}]*\}}|\\[A-Za-z]+"
)
_WORDS = re.compile(r"[^\W\d_]{4,}")
_SPACED = re.compile(r"[0-9]\s+[0-9]")  # read as a product or a sum
_UNEQUAL = re.compile(r"\s*(?:\\neq?\b|\\not\b|≠|!=)")
_BOX = re.compile(r"\\(?:boxed|fbox)\b")


def installed() -> str:
  """Math-Verify's version, or nothing where it is missing."""
  try:
    return importlib.metadata.version("math-verify")
  except importlib.metadata.PackageNotFoundError:
    return ""


def is_formula(text: str) -> bool:
  """Whether all of a text may be mathematics: no words, no numbers with only space between."""
  if len(text) > _LONGEST or _BOX.search(text) or not _balanced(text):
    return False
  bare = _COMMAND.sub(" \0 ", text)
  something = any(c.isdigit() or c in "\0+-*/^=<>_" or (c.isalpha()) for c in bare)
  letters = re.search(r"[^\W\d_]{2,}", bare) and not re.search(r"[\d\0+*/^=<>_-]", bare)
  return something and not letters and not _WORDS.search(bare)


def equal_each(pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
  """Whether each wanted answer equals the given one beside it, all of both read."""
  return _pool().call([(wanted, given, True) for wanted, given in pairs])


def said_each(pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
  """Whether Math-Verify finds the same in each wanted answer, as it was given, as in its text."""
  return _pool().call([(wanted, text, False) for wanted, text in pairs])


def read_each(answers: Sequence[str]) -> list[Outcome]:
  """Whether each wanted answer can be read as mathematics; failures are those of the reading."""
  return _pool().call([(answer,) for answer in answers])


def _pool() -> Any:
  return workers(f"{__name__}:_verifier")


def _verifier() -> Callable[..., bool]:
  """In the process: whether an answer is mathematics, or equals another."""
  from math_verify import LatexExtractionConfig, parse, verify

  whole = [LatexExtractionConfig(boxed_match_priority=0)]

  @functools.lru_cache(maxsize=4096)
  def read(answer: str) -> list[Any]:
    text = answer.strip().strip("$").strip().rstrip(".")
    if not is_formula(text) or is_misread(text):
      return []
    boxed = "\\boxed{" + text + "}"
    return parse(boxed, whole, fallback_mode="no_fallback", parsing_timeout=None)

  def judge(wanted: str, given: str | None = None, all_of_it: bool = True) -> bool:
    if given is None:
      return bool(read(wanted))
    if all_of_it:
      return verify(read(wanted), read(given), timeout_seconds=None)
    said = parse(given, parsing_timeout=None)
    golds = read(gold_answer(wanted)), parse(wanted, parsing_timeout=None)
    return any(verify(gold, said, timeout_seconds=None) for gold in golds)

  judge("1", "2")  # loads what comes only with the first formula
  return judge


def is_misread(answer: str) -> bool:
  """Whether Math-Verify reads another answer: the last of `5 = 6`, the sum of `5 6`, 6 in `≠ 6`."""
  if _SPACED.search(answer) or _UNEQUAL.match(answer):
    return True
  numbers = [read_answer(part).number for part in answer.split("=")]
  known = [number for number in numbers if number is not None]
  return any(not equal_numbers(known[0], number) for number in known[1:])


def _balanced(text: str) -> bool:
  """Whether every brace is closed, so that nothing reaches out of the box it is put in."""
  depth = 0
  for match in re.finditer(r"\\.|[{}]", text):
    depth += {"{": 1, "}": -1}.get(match[0], 0)
    if depth < 0:
      return False
  return depth == 0
