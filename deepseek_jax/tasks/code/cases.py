"""What a program is held against: outputs, values of a function, or tests that call it."""

import ast
import builtins
import dataclasses
import json
import re
from typing import Any


@dataclasses.dataclass(frozen=True)
class Outputs:
  """The whole output that a program must have for each input."""

  cases: tuple[tuple[str, str], ...]  # input, output
  live_code_bench: bool = False  # judged as its own runner does, else exactly


@dataclasses.dataclass(frozen=True)
class Values:
  """What a function must return, in JSON's types; LiveCodeBench's form, judged as there."""

  function: str
  cases: tuple[tuple[str, str], ...]  # arguments as an array of JSON, value as JSON


@dataclasses.dataclass(frozen=True)
class Assertions:
  """A program of assertions that call functions.

  `setup` runs before it, without the functions; `prompt` is what a completion may go on from.
  """

  functions: tuple[str, ...]
  test: str
  setup: str = ""
  prompt: str = ""

  def programs(self, text: str) -> list[str]:
    """What to run for a completion: one that defines the function, or goes on from the prompt.

    Of the former, imports and helpers of the prompt are its own too. Only its text is looked at.
    """
    if not self.prompt:
      return [text]
    name = re.escape(self.functions[0])
    if re.search(rf"^(?:(?:async[ \t]+)?def[ \t]+{name}\b|{name}[ \t]*[:=])", text, re.MULTILINE):
      return [self.prompt, text]
    first = text.lstrip("\r\n")
    lost = "" if first[:1].isspace() else _indent(self.prompt)
    return [f"{self.prompt.rstrip()}\n{lost}{first}"]


Cases = Outputs | Values | Assertions


def called(cases: Cases) -> tuple[str, ...]:
  """The functions that a program has to define."""
  if isinstance(cases, Values):
    return (cases.function,)
  return cases.functions if isinstance(cases, Assertions) else ()


def same_output(output: bytes, wanted: str) -> bool:
  """Whether all lines agree but for white space at their ends and at the end of the output."""
  try:
    return _lines(output.decode("utf-8")) == _lines(wanted)
  except UnicodeDecodeError:
    return False


def same_value(output: bytes, wanted: str) -> bool:
  """Whether what is JSON in both is equal, as Python's plain types are."""
  try:
    return bool(json.loads(output) == json.loads(wanted))
  except (ValueError, RecursionError):
    return False


def called_functions(tests: str, setup: str) -> list[str]:
  """The functions that tests call and nobody defines; SyntaxError for what is no Python."""
  known = {*vars(builtins), *_bound(ast.parse(setup)), *_bound(ast.parse(tests))}
  calls = [node.func for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Call)]
  names = [function.id for function in calls if isinstance(function, ast.Name)]
  return [name for name in dict.fromkeys(names) if name not in known]


def used_modules(tests: str) -> list[str]:
  """The names whose attributes tests use, as `math` of `math.isclose`."""
  walked = [node.value for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Attribute)]
  return sorted({node.id for node in walked if isinstance(node, ast.Name)})


def _lines(text: str) -> list[str]:
  return [line.rstrip() for line in text.rstrip().split("\n")]


def _indent(prompt: str) -> str:
  last = prompt.rstrip().splitlines()[-1]
  return last[: len(last) - len(last.lstrip())] or "    "


def _bound(tree: ast.AST) -> set[str]:
  """All names that a program binds, anywhere in it."""
  found: set[str] = set()
  for node in ast.walk(tree):
    name: Any = getattr(node, "name", None)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
      found.add(name)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
      found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      found.add(node.id)
    elif isinstance(node, ast.arg):
      found.add(node.arg)
  return found
