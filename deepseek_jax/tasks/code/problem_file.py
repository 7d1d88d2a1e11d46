"""Programming problems from a file of JSON lines, in the forms in which they are published.

  HumanEval      prompt, test, entry_point (canonical_solution, task_id)
  MBPP           text or prompt, test_list (test_imports, test_setup_code, code, task_id)
  LiveCodeBench  question_content, public_test_cases, private_test_cases, metadata, starter_code
  our own        prompt, tests: a list of {"input": ..., "output": ...}

LiveCodeBench's private cases are a pickle of a text; its text is read, and no pickle run. It is
judged as its own runner does (`live_code_bench.py`), our own form by the exact output. Of MBPP's
tests a prompt shows the first alone, as EvalPlus does: a program could answer what it has seen from
memory. A solution that a record has is the problem's answer, by which a verifier can be checked.
"""

import base64
import json
import pickletools
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.code.cases import (
  Assertions,
  Cases,
  Outputs,
  Values,
  called_functions,
  used_modules,
)
from deepseek_jax.tasks.task import Problem

_LARGEST = 2**28  # bytes of unpacked test cases
_HARMLESS = frozenset(("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"))
_ASK = "Give the whole program in one block that begins with ```python and ends with ```."
_READS = "Write a Python program that reads standard input and writes standard output."


class _FaultError(ValueError):
  """What is wrong with a problem."""


def read_problems(path: Path, task: str) -> tuple[Problem, ...]:
  """The problems of a file, whose `data` are `Cases`; `task` is the name of their task.

  Raises:
    ConfigError: the file cannot be read, or a line is no problem; it is named.
  """
  try:
    text = path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"{path} cannot be read ({error}); name a file of JSON lines.") from error
  problems: list[Problem] = []
  lines: dict[str, int] = {}
  for number, line in enumerate(text.split("\n"), start=1):
    if line.strip():
      try:
        problem = _problem(json.loads(line), task)
      except (ValueError, SyntaxError, RecursionError, zlib.error) as error:
        raise ConfigError(f"{path}, line {number} is no problem: {error}.") from error
      if problem.key in lines:
        raise ConfigError(f"{path}, line {number} asks the same as line {lines[problem.key]}.")
      lines[problem.key] = number
      problems.append(problem)
  if not problems:
    raise ConfigError(f"{path} has no problems in it; name another file.")
  return tuple(problems)


def _problem(record: Any, task: str) -> Problem:
  """One line's problem."""
  if not isinstance(record, dict):
    raise _FaultError("it is no JSON object")
  for field, read in _FORMS.items():
    if field in record:
      prompt, cases = read(record)
      # Half of a surrogate pair, which JSON can spell, is no character: no tokenizer reads it.
      prompt = prompt.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
      answer = _solution(record, field)
      return Problem(prompt=prompt, task=task, key=f"code {prompt}", data=cases, answer=answer)
  raise _FaultError(f"it has none of the fields {', '.join(_FORMS)}")


def _human_eval(record: dict[str, Any]) -> tuple[str, Cases]:
  prompt, test, function = (_text(record, name) for name in ("prompt", "test", "entry_point"))
  compile(prompt, "prompt", "exec")
  compile(test, "test", "exec")
  if not function.isidentifier():
    raise _FaultError(f"its entry_point {function!r} is no name")
  asked = f"Complete this Python function.\n\n```python\n{prompt.rstrip()}\n```\n\n{_ASK}"
  cases = Assertions((function,), f"{test}\n\ncheck({function})\n", setup=prompt, prompt=prompt)
  return asked, cases


def _mbpp(record: dict[str, Any]) -> tuple[str, Cases]:
  question = _text(record, "text" if "text" in record else "prompt")
  tests, imports = _texts(record, "test_list"), _texts(record, "test_imports")
  if not tests:
    raise _FaultError("its test_list is empty")
  setup = "\n".join([*imports, str(record.get("test_setup_code") or "")])
  test = "\n".join(tests)
  used = [f"import {name}" for name in used_modules(test) if name in sys.stdlib_module_names]
  setup = "\n".join([*used, setup])
  functions = called_functions(test, setup)
  if not functions:
    raise _FaultError("its tests call no function of the program")
  asked = f"{question.strip()}\n\nThe program has to pass tests like this one:\n\n{tests[0]}"
  return f"{asked}\n\n{_ASK}", Assertions(tuple(functions), test, setup=setup)


def _live_code_bench(record: dict[str, Any]) -> tuple[str, Cases]:
  question = _text(record, "question_content")
  cases = [*_cases(record["public_test_cases"]), *_private(record.get("private_test_cases"))]
  pairs = _pairs(cases)
  starter = str(record.get("starter_code") or "").rstrip()
  metadata = record.get("metadata") or {}
  metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
  function = metadata.get("func_name") if isinstance(metadata, dict) else None
  kinds = {str(case.get("testtype", "functional" if function else "stdin")) for case in cases}
  if kinds == {"stdin"}:
    return f"{question.strip()}\n\n{_READS} {_ASK}", Outputs(pairs, live_code_bench=True)
  if kinds != {"functional"} or not isinstance(function, str) or not function.isidentifier():
    raise _FaultError(
      "its cases are not all stdin, nor all functional with a func_name in metadata"
    )
  begun = f"\n\nBegin with this:\n\n```python\n{starter}\n```" if starter else ""
  named = "" if starter else f" Its function is called {function}."
  values = tuple((_arguments(a), json.dumps(json.loads(b))) for a, b in pairs)
  return f"{question.strip()}{begun}\n\n{_ASK}{named}", Values(function, values)


def _ours(record: dict[str, Any]) -> tuple[str, Cases]:
  prompt = _text(record, "prompt").strip()
  return f"{prompt}\n\n{_READS} {_ASK}", Outputs(_pairs(_cases(record["tests"])))


_FORMS: dict[str, Callable[[dict[str, Any]], tuple[str, Cases]]] = {
  "entry_point": _human_eval,
  "test_list": _mbpp,
  "public_test_cases": _live_code_bench,
  "tests": _ours,
}


def _solution(record: dict[str, Any], form: str) -> str | None:
  """The whole program that a record of such a form, a name in _FORMS, brings as its solution."""
  field = {"entry_point": "canonical_solution", "test_list": "code"}.get(form, "")
  found = record.get(field)
  if not isinstance(found, str) or not found.strip():
    return None
  return str(record["prompt"]) + found if form == "entry_point" else found


def _text(record: dict[str, Any], name: str) -> str:
  value = record.get(name)
  if not isinstance(value, str) or not value.strip():
    raise _FaultError(f"its {name} is no text")
  return value


def _texts(record: dict[str, Any], name: str) -> list[str]:
  value = record.get(name) or []
  if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
    raise _FaultError(f"its {name} is no list of texts")
  return value


def _cases(listed: Any) -> list[dict[str, Any]]:
  """A list of cases, also as JSON; it may be empty."""
  found = json.loads(listed) if isinstance(listed, str) else listed
  if not isinstance(found, list) or not all(isinstance(case, dict) for case in found):
    raise _FaultError("its cases are no list of objects")
  return found


def _private(packed: Any) -> list[dict[str, Any]]:
  """LiveCodeBench's hidden cases: JSON, or base64 of zlib of a pickle of JSON."""
  if not packed:
    return []
  if not isinstance(packed, str) or packed.lstrip()[:1] in ("[", "{"):
    return _cases(packed)
  unpacking = zlib.decompressobj()
  pickled = unpacking.decompress(base64.b64decode(packed, validate=True), _LARGEST)
  if not unpacking.eof:
    raise _FaultError(f"its private_test_cases have more than {_LARGEST} bytes, or are cut off")
  steps = [(step.name, value) for step, value, _ in pickletools.genops(pickled)]
  texts = [value for name, value in steps if name.endswith("UNICODE") or name.endswith("UNICODE8")]
  others = {name for name, _ in steps if "UNICODE" not in name} - _HARMLESS
  if len(texts) != 1 or others:
    raise _FaultError("its private_test_cases are a pickle of something else than a text")
  return _cases(texts[0])


def _pairs(cases: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
  """The inputs and outputs of one case or more."""
  if not cases:
    raise _FaultError("it has no cases")
  for case in cases:
    if not isinstance(case.get("input"), str) or not isinstance(case.get("output"), str):
      raise _FaultError("a case has not an input and an output that are texts")
  return tuple((case["input"], case["output"]) for case in cases)


def _arguments(given: str) -> str:
  """An array of the arguments, each of which is JSON on a line of its own."""
  return json.dumps([json.loads(line) for line in given.split("\n") if line.strip()])
