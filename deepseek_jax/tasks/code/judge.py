"""Whether a program does what is asked: nothing that it could imitate ever comes near it.

Outputs and values are compared here, outside; the expected ones never enter a sandbox. Assertions,
which are programs themselves, run in a sandbox of their own, from which they call the program's
functions over pipes.
"""

import contextlib
import dataclasses
import enum
import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from deepseek_jax.tasks.code import live_code_bench
from deepseek_jax.tasks.code.cases import Assertions, Cases, Values, same_output, same_value
from deepseek_jax.tasks.code.running import DEFAULT, Limits, Run, Running
from deepseek_jax.tasks.code.sandbox import Sandbox, part

_ATTEMPTS = 3  # at what fails for no fault of the program
_PATIENCE = 2.0  # seconds for a program that broke off to be seen to have ended


class Outcome(enum.Enum):
  """How a program did."""

  PASS = "pass"
  WRONG = "wrong"
  TIMEOUT = "timeout"
  MEMORY = "memory"
  CRASH = "crash"
  INFRASTRUCTURE = "infrastructure"  # the sandbox or the test failed, not the program


@dataclasses.dataclass(frozen=True)
class Verdict:
  """An outcome, and in a sentence why, of what is no pass."""

  outcome: Outcome
  message: str = ""


def judge(box: Sandbox, cases: Cases, text: str, limits: Limits = DEFAULT) -> Verdict:
  """The verdict on a program by its text: a pass if every case passes, else of the first other.

  What fails for no fault of the program is tried again, and is `INFRASTRUCTURE` in the end.
  """
  for verdict in _attempts(box, cases, text, limits):
    if verdict.outcome is not Outcome.PASS:
      return verdict
  return Verdict(Outcome.PASS)


def _attempts(box: Sandbox, cases: Cases, text: str, limits: Limits) -> Iterator[Verdict]:
  """A verdict on each case."""
  if isinstance(cases, Assertions):
    yield _again(functools.partial(_tested, box, cases, cases.programs(text), limits))
  elif isinstance(cases, Values):
    for arguments, wanted in cases.cases:
      given = {"prelude": live_code_bench.PRELUDE, "program": text}
      given |= {"function": cases.function, "arguments": json.loads(arguments)}
      yield _again(functools.partial(_called, box, given, wanted, limits))
  else:
    theirs = cases.live_code_bench
    program = live_code_bench.with_prelude(text) if theirs else text
    same = live_code_bench.same_output if theirs else same_output
    for given_text, wanted in cases.cases:
      yield _again(functools.partial(_printed, box, program, given_text, wanted, limits, same))


def _again(attempt: Callable[[], Verdict]) -> Verdict:
  """The first verdict that is one on the program, of a few attempts."""
  for number in range(_ATTEMPTS):
    try:
      verdict = attempt()
    except OSError as error:
      verdict = Verdict(Outcome.INFRASTRUCTURE, f"no program can be started: {error}")
    if verdict.outcome is not Outcome.INFRASTRUCTURE:
      break
    time.sleep(0.1 * number)  # of a machine without a process to spare
  return verdict


def _printed(
  box: Sandbox,
  text: str,
  given: str,
  wanted: str,
  limits: Limits,
  same: Callable[[bytes, str], bool],
) -> Verdict:
  run = box.run(text, given.encode("utf-8", "replace"), _room_for(wanted, limits))
  if fault := _fault(run, limits):
    return fault
  return _compared(same(run.output, wanted), "its output is another")


def _called(box: Sandbox, given: dict[str, Any], wanted: str, limits: Limits) -> Verdict:
  run = box.run(
    part("calls"), json.dumps({"part": "call", **given}).encode(), _room_for(wanted, limits)
  )
  if fault := _fault(run, limits):
    return fault
  return _compared(same_value(run.output, wanted), "its value is another")


def _compared(same: bool, message: str) -> Verdict:
  return Verdict(Outcome.PASS) if same else Verdict(Outcome.WRONG, message)


def _room_for(wanted: str, limits: Limits) -> Limits:
  """Limits under which a right output is not too long."""
  return dataclasses.replace(limits, output=max(limits.output, 8 * len(wanted)))


def _fault(run: Run, limits: Limits) -> Verdict | None:
  """What a run ended with, if not well."""
  if not run.began:
    said = run.last_words or f"exit status {run.status}"
    return Verdict(Outcome.INFRASTRUCTURE, f"the sandbox could not be made: {said}")
  if run.timed_out:
    took = f"{limits.wall:g} s" if run.stopped else f"{limits.cpu} s of the processor"
    return Verdict(Outcome.TIMEOUT, f"it took more than {took}")
  if run.stopped == "output":
    return Verdict(Outcome.WRONG, f"it printed more than {limits.output} bytes")
  if run.status == 0:
    return None
  if run.last_words.startswith("MemoryError"):
    return Verdict(Outcome.MEMORY, f"it needs more than {limits.memory} bytes")
  return Verdict(Outcome.CRASH, run.last_words or f"it ended with exit status {run.status}")


def _tested(box: Sandbox, cases: Assertions, programs: list[str], limits: Limits) -> Verdict:
  """Runs the program in one sandbox and its tests in another."""
  with contextlib.ExitStack() as pipes:
    hear_calls, call = _pipe(pipes)
    hear_answers, answer = _pipe(pipes)
    given = {"part": "serve", "programs": programs, "calls": hear_calls, "answers": answer}
    served = box.start(part("calls"), json.dumps(given).encode(), limits, (hear_calls, answer))
    ended: list[Run] = []
    # The thread only reads: the sandbox ends with the thread that started it, which is this one.
    reader = threading.Thread(target=_finish, args=(served, ended))
    reader.start()
    try:
      given = {"part": "test", "setup": cases.setup, "test": cases.test, "calls": call}
      given |= {"functions": list(cases.functions), "answers": hear_answers}
      pipe_ends = (call, hear_answers)
      tests = box.start(part("calls"), json.dumps(given).encode(), limits, pipe_ends)
      pipes.close()  # so that each of the two sees the other's end
      outcome, message = _said(tests.finish(), limits)
      if outcome == "lost":
        reader.join(_PATIENCE)
    finally:
      served.kill()
      reader.join()
  if outcome == "lost":
    return _lost(ended[0] if ended else None, message, limits)
  return Verdict(Outcome(outcome), message)


def _finish(served: Running, ended: list[Run]) -> None:
  """In a thread of its own: reads what a program says; `ended` stays empty where that fails."""
  with contextlib.suppress(OSError):
    ended.append(served.finish())


def _lost(run: Run | None, message: str, limits: Limits) -> Verdict:
  """Why a program ended before its tests did, or answered nonsense."""
  if run is None:
    return Verdict(Outcome.INFRASTRUCTURE, "what the program says could not be read")
  if run.began and not run.stopped and run.status == 128 + signal.SIGKILL:  # we did, for `message`
    return Verdict(Outcome.CRASH, message)
  return _fault(run, limits) or Verdict(Outcome.CRASH, message)


def _said(run: Run, limits: Limits) -> tuple[str, str]:
  """The verdict of the tests; `infrastructure` where they have none."""
  if run.began and run.timed_out:
    return "timeout", f"its tests took more than {limits.wall:g} s"
  try:
    outcome, message = map(str, json.loads(run.output))
  except (ValueError, TypeError):
    return "infrastructure", f"the tests ended without a verdict: {run.last_words or run.status}"
  return ("infrastructure" if outcome == "error" else outcome), message


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
  ends = os.pipe()
  for end in ends:
    stack.callback(os.close, end)
  return ends
