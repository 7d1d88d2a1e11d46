"""How LiveCodeBench's own runner judges, where that is milder than an exact comparison.

Before a program stand star imports of much of the library, and a higher limit on recursion. Of an
output white space at both ends of each line and of the whole is ignored, and two lines agree also
where all their words are numbers, and these are equal as decimals: `1.0 2` is `1 2`. Values of
functions are compared as JSON's, of which tuples are lists.

Source: `testing_util.py` of LiveCodeBench (Jain et al., 2024, arXiv:2403.07974).
"""

from decimal import Decimal

_IMPORTED = (
  *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random"),
  *("statistics", "itertools", "functools", "operator", "io", "sys", "json"),
)
PRELUDE = "".join(
  [f"from {module} import *\n" for module in (*_IMPORTED, "builtins", "typing")]
  + [f"import {module}\n" for module in _IMPORTED]
  + ["sys.setrecursionlimit(50000)\n"]
)


def with_prelude(program: str) -> str:
  """The program behind the prelude; its imports from `__future__` still come first in it."""
  return f"{PRELUDE}exec(compile({program!r}, 'program.py', 'exec'))\n"


def same_output(output: bytes, wanted: str) -> bool:
  """Whether an output has the lines that are wanted, as texts or as numbers."""
  try:
    lines, others = _lines(output.decode("utf-8")), _lines(wanted)
  except UnicodeDecodeError:
    return False
  return len(lines) == len(others) and all(
    line == other or _same_numbers(line, other) for line, other in zip(lines, others)
  )


def _lines(text: str) -> list[str]:
  return [line.strip() for line in text.strip().split("\n")]


def _same_numbers(line: str, other: str) -> bool:
  try:
    return [Decimal(word) for word in line.split()] == [Decimal(word) for word in other.split()]
  except ArithmeticError:  # a word that is no number, or a NaN that refuses to be compared
    return False
