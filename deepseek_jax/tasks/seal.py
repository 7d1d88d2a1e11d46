"""Text is data: what a scorer's process may still do once it reads what a model wrote.

Some scorers evaluate an answer as Python or by sympy, which does. An audit hook (PEP 578) looks at
each source before it is compiled, and lets through what only computes: literals, operators and
calls by name. Everything else that Python tells of, files written, processes, sockets, is refused
as well, whoever asks. It holds against texts, not against programs: what runs programs needs a
sandbox of the operating system, and scorers have one around them where they can (see `wall.py`).
"""

import ast
import builtins
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

_HARMLESS = frozenset(
  (
    *("exec", "import", "marshal.loads", "os.listdir", "os.scandir", "time.sleep"),
    *("sys._getframe", "sys._getframemodulename"),
    *("array.__new__", "builtins.id", "object.__getattr__", "object.__setattr__"),
    *("pickle.find_class", "cpython._PySys_ClearAuditHooks", "gc.get_objects", "gc.get_referrers"),
  )
)
_COMPUTING = (
  *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Call, ast.keyword, ast.Starred),
  *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop),
  *(ast.cmpop, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Subscript, ast.Slice, ast.IfExp),
)
# Python's own functions that a text may call; sympy's and others stand beside them.
_PLAIN = frozenset(
  (
    *("abs", "all", "any", "bool", "complex", "dict", "divmod", "float", "frozenset", "int"),
    *("len", "list", "max", "min", "pow", "range", "round", "set", "sorted", "str", "sum", "tuple"),
    *("None", "True", "False"),
  )
)
_HIDDEN = frozenset(vars(builtins)) - _PLAIN
# What sympy compiles of its own: names for what it parses, and products of monomials.
_OF_SYMPY = "from sympy import *"
_GENERATOR = os.path.join("sympy", "polys", "monomials.py")


class RefusedError(PermissionError):
  """What a scorer wanted to do and may not."""


class Seal:
  """The audit hook, in force inside `with`. It cannot be taken off again, as Python has it.

  `refused` says what was refused since it was last entered, also where a scorer caught the error.
  """

  def __init__(self) -> None:
    self.refused = ""
    self._closed = False
    self._looking = False
    sys.addaudithook(self._look)

  def __enter__(self) -> "Seal":
    self.refused = ""
    self._closed = True
    return self

  def __exit__(self, *error: object) -> None:
    self._closed = False

  def _look(self, event: str, given: tuple[Any, ...]) -> None:
    if not self._closed or self._looking or event in _HARMLESS:
      return
    self._looking = True
    try:
      fault = _fault(event, given)
    finally:
      self._looking = False
    if fault:
      self.refused = fault
      raise RefusedError(fault)


def _fault(event: str, given: Sequence[Any]) -> str:
  """What is wrong with an event; nothing if it is harmless."""
  check = _CHECKS.get(event)
  if check is None:
    return f"{event} is not allowed to a scorer"
  return check(*given)


def _compiled(source: Any, filename: Any) -> str:
  if source is None or _by_a_library():
    return ""
  if not isinstance(source, ast.AST):
    text = source.decode(errors="replace") if isinstance(source, bytes) else str(source)
    if text == _OF_SYMPY:
      return ""
    try:
      source = ast.parse(text.strip(), mode="eval")
    except SyntaxError:
      return "" if _is_broken(text) else "statements in an answer are not run"
  return _computing(source)


def _is_broken(text: str) -> bool:
  """Whether a text is no Python at all, which whoever compiles it will be told."""
  try:
    ast.parse(text)
  except SyntaxError:
    return True
  return False


def _computing(tree: ast.AST) -> str:
  """What in an expression does more than compute."""
  for node in ast.walk(tree):
    if not isinstance(node, _COMPUTING):
      return f"{type(node).__name__} in an answer is not run"
    if isinstance(node, ast.Name) and (node.id in _HIDDEN or node.id.startswith("__")):
      return f"the name {node.id[:40]!r} in an answer is not run"
  return ""


def _by_a_library() -> bool:
  """Whether a module is being imported, or sympy generates code; no text can do either."""
  frame = sys._getframe(4)  # behind this, the check, `_fault` and the hook: who compiles
  if frame.f_code.co_filename.endswith(_GENERATOR):
    return True
  while frame is not None:
    if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
      return True
    frame = frame.f_back  # type: ignore[assignment]
  return False


def _opened(path: Any, mode: Any, flags: Any) -> str:
  writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
  return f"writing {str(path)[:80]!r} is not allowed to a scorer" if flags & writing else ""


_CHECKS: dict[str, Callable[..., str]] = {"compile": _compiled, "open": _opened}
