"""A scorer's own process; `workers.py` starts it and speaks with it.

Two processes in truth. The first imports what scoring needs and forks the second, which seals
itself (see `seal.py`), scores what comes in and may die of it: the first tells of its death and
forks another at once, with everything imported. Items come in pickled, from a process that is
trusted; judgements go out as lines of JSON, so that nothing in them can do harm.

  in    8 bytes of length, then a pickled list of pickled items, each the arguments of one call
  out   {"ready": true} or {"unready": MESSAGE}; a line for each item in its order, {"value": ...}
        or {"failure": KIND, "message": ...}; {"died": SIGNAL} in place of the item that killed it
"""

import importlib
import json
import mmap
import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

from deepseek_jax.tasks.seal import RefusedError, Seal

LONGEST = 4000  # bytes of a judgement
_MEASURED = 2**37  # bytes: more address space than modules take, and less than there is
_DONE = 77  # the exit status of a scoring process that was told to end


def main() -> None:
  """Serves until its input ends."""
  answers = _own_output()
  try:
    maker, arguments, limits = pickle.loads(_frame())
    module, _, name = maker.partition(":")
    score = getattr(importlib.import_module(module), name)(*arguments)
  except BaseException as error:  # whatever it is, the parent has to know
    _send(answers, {"unready": _said(error)})
    return
  _send(answers, {"ready": True})
  while True:
    child = os.fork()
    if child == 0:
      _serve(score, answers, **limits)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _DONE:
      return
    died = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit"
    _send(answers, {"died": died})


def _own_output() -> int:
  """Where judgements go; what scorers print goes nowhere."""
  answers = os.dup(1)
  nowhere = os.open(os.devnull, os.O_RDWR)
  for stream in (1, 2):
    os.dup2(nowhere, stream)
  return answers


def _serve(
  score: Callable[..., Any],
  answers: int,
  seconds: float,
  memory: int,
  processes: int | None,
  user: int | None,
) -> None:
  """The scoring process."""
  _limit(memory, processes)
  if user is not None:  # so that it can do nothing to the process that forked it, either
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
  seal = Seal()
  while frame := _frame():
    for item in pickle.loads(frame):
      # The clock of the processor: what else the machine does changes no judgement. The signal
      # has no handler, so that it also ends what Python cannot interrupt.
      signal.setitimer(signal.ITIMER_PROF, seconds)
      judgement = _judge(score, item, seal)
      signal.setitimer(signal.ITIMER_PROF, 0)
      _send(answers, judgement)
  os._exit(_DONE)


def _limit(memory: int, processes: int | None) -> None:
  """At most `memory` bytes beyond what is in use, so many processes, no files and no dumps.

  Memory is limited on Linux alone: elsewhere the kernel does not heed the limit.
  """
  for which in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
    resource.setrlimit(which, (0, 0))
  if processes is not None:
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
  if sys.platform == "linux":
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = _MEASURED if hard == resource.RLIM_INFINITY else min(hard, _MEASURED)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    most = min(most, most - _left(most) + memory)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _left(most: int) -> int:
  """Bytes of address space still to be had of `most`, in pages; where there may be no /proc."""
  kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
  had, not_had = 0, most // mmap.PAGESIZE + 1
  while not_had - had > 1:
    tried = (had + not_had) // 2
    try:
      mmap.mmap(-1, tried * mmap.PAGESIZE, kind, mmap.PROT_READ).close()
      had = tried
    except OSError:
      not_had = tried
  return had * mmap.PAGESIZE


def _judge(score: Callable[..., Any], item: bytes, seal: Seal) -> dict[str, Any]:
  """One item's line."""
  failure, value = {}, None
  try:
    arguments = pickle.loads(item)
    with seal:
      value = score(*arguments)
  except MemoryError:
    failure = {"failure": "memory", "message": "it needs more memory than it may have"}
  except BaseException as error:
    kind = "refused" if isinstance(error, RefusedError) else "error"
    failure = {"failure": kind, "message": _said(error)}
  if seal.refused:
    return {"failure": "refused", "message": seal.refused}
  return failure or {"value": value}


def _send(answers: int, line: dict[str, Any]) -> None:
  """Writes a line in one piece."""
  try:
    text = json.dumps(line, default=_plain)
  except (TypeError, ValueError) as error:
    text = json.dumps({"failure": "error", "message": f"its judgement is no plain value: {error}"})
  if len(text) > LONGEST:
    text = json.dumps({"failure": "output", "message": f"its judgement has {len(text)} characters"})
  os.write(answers, text.encode() + b"\n")


def _plain(value: Any) -> Any:
  """NumPy's numbers as Python's."""
  item = getattr(value, "item", None)
  if item is None:
    raise TypeError(f"a {type(value).__name__}")
  return item()


def _said(error: BaseException) -> str:
  return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _frame() -> bytes:
  """The next frame, or nothing where the input ended."""
  head = _exactly(8)
  return _exactly(struct.unpack("<Q", head)[0]) if head else b""


def _exactly(size: int) -> bytes:
  parts = []
  while size > 0:
    part = os.read(sys.stdin.fileno(), min(size, 2**20))
    if not part:
      return b""
    parts.append(part)
    size -= len(part)
  return b"".join(parts)
