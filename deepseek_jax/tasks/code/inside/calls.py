"""Calling a function of a program from where the program cannot reach: three parts to play.

Each runs as the main module of a sandbox of its own, and is told by JSON on its input what to do.

  call    runs a program, calls its function once and prints the value as JSON
  serve   runs programs, one after the other, and answers calls that come over a pipe
  test    runs tests whose functions are a server's, and prints the verdict

A test and the program it tests share no interpreter and no sandbox: what the program can do is to
send bytes. They are read as values of Python's own types, of which `__eq__` and the like are
Python's own; a value of any other type arrives as one that is equal to nothing, and an iterator as
one over the same items. Arguments cross as copies, so that a test of what a function does to its
argument cannot be passed.
"""

import builtins
import itertools
import json
import os
import sys
import types
from collections import abc, deque
from collections.abc import Callable
from typing import Any

LONGEST = 2**24  # bytes of a value
MOST = 10**5  # items of an iterator; one with more, or without end, does not cross
_SEVERAL: dict[str, tuple[Any, Callable[[list[Any]], Any]]] = {
  "list": (list, list),
  "tuple": (tuple, tuple),
  "set": (set, set),
  "frozenset": (frozenset, frozenset),
  "deque": (deque, deque),
  "keys": (abc.KeysView, lambda items: dict.fromkeys(items).keys()),
  "values": (abc.ValuesView, lambda items: dict(enumerate(items)).values()),
  "items": (abc.ItemsView, lambda items: dict(items).items()),
}  # the type of what is sent, and what it arrives as


class LostError(BaseException):
  """The program that should answer has ended, or answers nonsense."""


class UnsendableError(BaseException):
  """A test gives a function what cannot be sent to it."""


class Opaque:
  """A value of a type that does not cross: equal to nothing but itself."""

  def __init__(self, true: bool) -> None:
    self._true = true

  def __bool__(self) -> bool:
    return self._true


class OpaqueError(Exception):
  """Such a value is given back to the program."""


def encode(value: Any) -> Any:
  """A value as JSON's types; TypeError for one that is not of Python's plain types."""
  if value is None or isinstance(value, (bool, str)):
    return value
  if isinstance(value, int):
    return int(value)
  if isinstance(value, float):
    return float(value)
  if isinstance(value, range):
    return {"range": [value.start, value.stop, value.step]}
  for kind, (sent, _) in _SEVERAL.items():
    if isinstance(value, sent):
      return {kind: [encode(item) for item in value]}
  if isinstance(value, abc.Iterator):
    items = list(itertools.islice(value, MOST + 1))
    if len(items) > MOST:
      raise TypeError(f"an iterator over more than {MOST} items does not cross")
    return {"iterator": [encode(item) for item in items]}
  if isinstance(value, dict):
    return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
  if isinstance(value, complex):
    return {"complex": [value.real, value.imag]}
  if isinstance(value, (bytes, bytearray)):
    return {"bytes": bytes(value).hex()}
  if isinstance(value, Opaque):
    raise OpaqueError("a value of no plain type cannot be given back")
  raise TypeError(f"a value of type {type(value).__name__} does not cross")


def decode(sent: Any) -> Any:
  """What `encode` was given, with subclasses as what they are of; ValueError for nonsense."""
  if sent is None or isinstance(sent, (bool, int, float, str)):
    return sent
  if not isinstance(sent, dict) or len(sent) != 1:
    raise ValueError("no value")
  (kind, content), *_ = sent.items()
  if kind == "opaque":
    return Opaque(content is True)
  if kind == "dict":
    return {decode(key): decode(item) for key, item in content}
  if kind == "complex":
    return complex(*map(float, content))
  if kind == "bytes":
    return bytes.fromhex(content)
  if kind == "iterator":
    return iter([decode(item) for item in content])
  if kind == "range":
    return range(*map(int, content))
  if kind not in _SEVERAL:
    raise ValueError("no value")
  return _SEVERAL[kind][1]([decode(item) for item in content])


def call(task: dict[str, Any]) -> None:
  """Prints what the function returns for JSON's values, as JSON; tuples are lists there."""
  answers = _own_output()
  function = _function(_names_of(task["prelude"], task["program"]), task["function"])
  value = json.dumps(function(*task["arguments"]))
  with os.fdopen(answers, "w") as file:
    file.write(value)


def serve(task: dict[str, Any]) -> None:
  """Answers calls until there are no more."""
  calls, answers = task["calls"], os.fdopen(task["answers"], "w")
  names = _names_of(*task["programs"])
  with os.fdopen(calls) as file:
    for line in file:
      name, arguments, named = json.loads(line)
      try:
        value = _function(names, name)(
          *map(decode, arguments), **{key: decode(item) for key, item in named.items()}
        )
        answer = {"value": _sendable(value)}
      except Exception as error:
        answer = {"raised": type(error).__name__, "message": str(error)[:200]}
      answers.write(json.dumps(answer) + "\n")
      answers.flush()


def test(task: dict[str, Any]) -> None:
  """Prints a verdict: pass, wrong, crash, memory, lost or error, and why."""
  output = _own_output()
  names = _new_module("assertions")
  try:
    exec(compile(task["setup"], "setup.py", "exec"), names)
    program = compile(task["test"], "test.py", "exec")
    remote = _Remote(task["calls"], task["answers"])
    names |= {name: remote.function(name) for name in task["functions"]}
  except BaseException as error:
    verdict = "error", f"the test cannot be run: {error!r}"
  else:
    verdict = _verdict(lambda: exec(program, names), remote)
  with os.fdopen(output, "w") as file:
    file.write(json.dumps([verdict[0], verdict[1][:300]]))


def _verdict(run: Callable[[], None], remote: "_Remote") -> tuple[str, str]:
  """What running tests comes to; what they import or name in vain is no fault of the program."""
  try:
    run()
  except AssertionError as error:
    return "wrong", f"an assertion failed {error}".strip()
  except LostError as error:
    return "lost", str(error)
  except UnsendableError as error:
    return "error", str(error)
  except MemoryError:
    return "memory", "it needs more memory than it may have"
  except BaseException as error:
    told = f"{type(error).__name__}: {error}"
    # What tests bind, but did not for what the program returned, is not in vain.
    in_vain = isinstance(error, (ImportError, NameError)) and type(error) is not UnboundLocalError
    if in_vain and error is not remote.raised:
      return "error", f"the test itself fails, {told}"
    return "crash", told
  return "pass", ""


class _Remote:
  """The other end of the pipes."""

  def __init__(self, calls: int, answers: int) -> None:
    self._calls = os.fdopen(calls, "w")
    self._answers = os.fdopen(answers, "rb")
    self.raised: Exception | None = None  # what the program raised last

  def function(self, name: str) -> Callable[..., Any]:
    """What stands for the program's function of this name."""

    def function(*arguments: Any, **named: Any) -> Any:
      return self._ask(name, arguments, named)

    function.__name__ = name
    return function

  def _ask(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
      sent = [encode(a) for a in arguments], {key: encode(a) for key, a in named.items()}
    except TypeError as error:
      raise UnsendableError(f"the test calls {name} with what cannot be sent: {error}") from error
    try:
      self._calls.write(json.dumps([name, *sent]) + "\n")
      self._calls.flush()
    except OSError as error:
      raise LostError("the program ended before it was called") from error
    line = self._answers.readline(LONGEST)
    try:
      answer = json.loads(line)
      if "value" in answer:
        return decode(answer["value"])
      raised, message = str(answer["raised"]), str(answer["message"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
      told = "an answer that is none" if line else "no answer"
      raise LostError(f"{name} gave {told}") from error
    kind = getattr(builtins, raised, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
      kind, message = RuntimeError, f"{raised}: {message}"
    try:
      found = kind(message)
    except TypeError:  # UnicodeDecodeError and others want more than a message
      found = RuntimeError(f"{raised}: {message}")
    self.raised = found
    raise found


def _sendable(value: Any) -> Any:
  try:
    return encode(value)
  except TypeError:
    return {"opaque": bool(value)}


def _names_of(*programs: str) -> dict[str, Any]:
  """What programs define; they run as a module that is not the main one, as what is tested does."""
  names = _new_module("program")
  for program in programs:
    exec(compile(program, "program.py", "exec"), names)
  return names


def _new_module(name: str) -> dict[str, Any]:
  """The names of a new module, which `dataclasses` and `pickle` look up among all modules."""
  module = types.ModuleType(name)
  sys.modules[name] = module
  return module.__dict__


def _function(names: dict[str, Any], name: str) -> Callable[..., Any]:
  """The function of that name, or the method of a class Solution, as LeetCode has it."""
  if "Solution" in names and hasattr(names["Solution"], name):
    return getattr(names["Solution"](), name)
  return names[name]


def _own_output() -> int:
  """A descriptor of the output; what a program prints goes nowhere from now on."""
  own = os.dup(1)
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, 1)
  return own


if __name__ == "__main__":
  given = json.load(sys.stdin)
  {"call": call, "serve": serve, "test": test}[given["part"]](given)
