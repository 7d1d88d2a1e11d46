"""Finding the final answer in a completion, and comparing answers."""

import math
import re

from deepseek_jax.tasks.response import parse_response

_BOX = "\\boxed{"
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?", re.ASCII)


def extract_answer(text: str) -> str | None:
  """The answer: between answer tags, or else in the last closed box behind the thought; or None."""
  response = parse_response(text)
  if response is not None:
    return response.answer
  text = text.rpartition("</think>")[2]
  start = text.rfind(_BOX)
  if start < 0:
    return None
  depth = 1
  for i in range(start + len(_BOX), len(text)):
    depth += (text[i] == "{") - (text[i] == "}")
    if depth == 0:
      return text[start + len(_BOX) : i].strip()
  return None


def same_answer(given: str, wanted: str) -> bool:
  """Whether two answers are equal as numbers or, white space, case and dollars aside, as text."""
  given, wanted = _plain(given), _plain(wanted)
  numbers = [float(s.replace(",", "")) for s in (given, wanted) if _NUMBER.fullmatch(s)]
  if len(numbers) == 2:
    return math.isclose(*numbers, rel_tol=1e-9, abs_tol=1e-12)
  return given == wanted


def _plain(text: str) -> str:
  return " ".join(text.strip().strip("$").casefold().split())
