"""Processes in which scorers run that are not ours: one that hangs or dies ends no run.

Each call has a limit of processor time and of memory, may write no file, start no process and open
no socket (see `seal.py`, and around it `wall.py`), and gives back plain values only. What fails is
an `Outcome` with its kind; the process it killed is replaced, and the other items are judged all
the same.
"""

import atexit
import collections
import contextlib
import dataclasses
import functools
import json
import os
import pickle
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks import wall

_MOST = 8  # processes
_BATCH = 64  # items that a process gets at a time
_STARTS = 3  # of a process, before it counts as one that cannot be started
_STARTING = 300.0  # seconds that importing may take
_PROGRAM = (
  "import sys; sys.path[:] = {path!r}; from deepseek_jax.tasks import worker; worker.main()"
)


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one call may take."""

  seconds: float = 5.0  # of the processor
  wall: float = 60.0  # seconds, for one that waits instead of computing
  memory: int = 2**30  # bytes beyond those of the imported modules


@dataclasses.dataclass(frozen=True)
class Outcome:
  """A call's value, or why there is none: error, time, memory, output, refused or died."""

  value: Any = None
  failure: str = ""
  message: str = ""


class Workers:
  """Processes that all call what `maker`, `package.module:name`, returns for `arguments`.

  They start with the first call and end with this process, however it ends.
  """

  def __init__(
    self,
    maker: str,
    arguments: tuple[Any, ...] = (),
    count: int | None = None,
    limits: Limits = Limits(),
    files: Sequence[str] = (),
  ) -> None:
    """`files` are what scoring reads besides modules, files and folders."""
    self.maker = maker
    self.arguments = arguments
    self.limits = limits
    self.count = count or min(_cores(), _MOST)
    self.files = files
    self._processes: list[_Process] = []
    self._lock = threading.Lock()
    atexit.register(self.close)

  def call(self, items: Sequence[tuple[Any, ...]]) -> list[Outcome]:
    """The outcome of each call, in order; `items` are the calls' arguments.

    Raises:
      ConfigError: the processes cannot be started, as where a module is missing.
    """
    with self._lock:
      try:
        return _Call(self, items).run()
      except BaseException:
        self._close()  # a process with half of a call in it would answer the next one wrongly
        raise

  def close(self) -> None:
    """Ends the processes; a later call starts others."""
    with self._lock:
      self._close()

  def _close(self) -> None:
    for process in self._processes:
      process.end()
    self._processes.clear()

  def processes(self, wanted: int) -> list["_Process"]:
    """At most `wanted` running processes; those that are missing are started side by side."""
    for process in [p for p in self._processes if p.ended]:  # by whoever killed it meanwhile
      self.drop(process)
    while len(self._processes) < min(self.count, wanted):
      self._processes.append(_Process(self))
    return self._processes[:wanted]

  def drop(self, process: "_Process") -> None:
    """Ends a process that is lost."""
    process.end()
    self._processes.remove(process)


@functools.lru_cache(maxsize=16)
def workers(maker: str, arguments: tuple[Any, ...] = (), files: tuple[str, ...] = ()) -> Workers:
  """The processes of this name, which all who ask share."""
  return Workers(maker, arguments, files=files)


def _cores() -> int:
  """Those that this process may use, where the system tells."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Process:
  """One process, and the items it was sent and has not judged yet."""

  def __init__(self, pool: Workers) -> None:
    program = _PROGRAM.format(path=[os.path.abspath(p) for p in sys.path])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with wall.place(pool.maker.partition(":")[0], pool.files) as place:
      self._popen = subprocess.Popen(
        [*place.command, sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=place.descriptors,
        env={**place.environment, **threads},  # it forks, which threads do not survive
        start_new_session=True,  # so that it and what it forked can be killed as one
      )
    self.walled = place.walled
    self.items: collections.deque[int] = collections.deque()
    self.ready = False
    self._rest = b""
    limits = {"seconds": pool.limits.seconds, "memory": pool.limits.memory}
    of_place = {"processes": place.processes, "user": place.user}
    self._send(pickle.dumps((pool.maker, pool.arguments, {**limits, **of_place})))

  @property
  def output(self) -> IO[bytes]:
    assert self._popen.stdout is not None
    return self._popen.stdout

  @property
  def ended(self) -> bool:
    return self._popen.poll() is not None

  def give(self, items: Sequence[int], pickled: Sequence[bytes]) -> None:
    """Sends items, by number and content."""
    self.items.extend(items)
    self._send(pickle.dumps(list(pickled)))

  def _send(self, content: bytes) -> None:
    assert self._popen.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # then its output has ended too, which is seen there
      self._popen.stdin.write(struct.pack("<Q", len(content)) + content)
      self._popen.stdin.flush()

  def lines(self) -> list[dict[str, Any]] | None:
    """What it says next; None if it has ended or talks nonsense."""
    part = os.read(self.output.fileno(), 2**16)
    *whole, self._rest = (self._rest + part).split(b"\n")
    try:
      found = [json.loads(line) for line in whole]
    except ValueError:
      return None
    sound = part and len(self._rest) < 2**16 and all(isinstance(line, dict) for line in found)
    return found if sound else None

  def end(self) -> None:
    """Kills it, and what it forked."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._popen.pid, signal.SIGKILL)
    self._popen.wait()
    for stream in (self._popen.stdin, self._popen.stdout):
      assert stream is not None
      with contextlib.suppress(BrokenPipeError):
        stream.close()


class _Call:
  """One call of many items, dealt to the processes as they become free."""

  def __init__(self, workers: Workers, items: Sequence[tuple[Any, ...]]) -> None:
    self._workers = workers
    self._outcomes: dict[int, Outcome] = {}
    self._pickled: dict[int, bytes] = {}
    for number, item in enumerate(items):
      try:
        self._pickled[number] = pickle.dumps(item)
      except Exception as error:  # pickle raises all sorts
        message = f"it cannot be sent to another process: {error}"
        self._outcomes[number] = Outcome(failure="error", message=message)
    self._size = len(items)
    self._waiting = collections.deque(self._pickled)
    self._batch = max(1, min(_BATCH, -(-len(self._waiting) // workers.count)))
    self._starts = 0
    self._again: set[int] = set()  # items that were given a second time
    self._deadlines: dict[_Process, float] = {}  # of those that are at work
    self._selector = selectors.DefaultSelector()

  def run(self) -> list[Outcome]:
    with self._selector:
      while len(self._outcomes) < self._size:
        for process in self._workers.processes(len(self._waiting) + len(self._deadlines)):
          if process not in self._deadlines:
            self._deal(process)
        self._hear()
    return [self._outcomes[number] for number in range(self._size)]

  def _deal(self, process: _Process) -> None:
    """Gives a free process its next items, if there are any."""
    chosen = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
    if not chosen:
      return
    process.give(chosen, [self._pickled[number] for number in chosen])
    self._selector.register(process.output, selectors.EVENT_READ, process)
    self._extend(process)

  def _extend(self, process: _Process) -> None:
    allowed = self._workers.limits.wall if process.ready else _STARTING
    self._deadlines[process] = time.monotonic() + allowed

  def _hear(self) -> None:
    """Waits for what the processes say, and gives up those that say nothing for too long."""
    wait = min(self._deadlines.values()) - time.monotonic()
    for key, _ in self._selector.select(max(wait, 0)):
      lines = key.data.lines()
      if lines is None:
        self._lose(key.data, Outcome(failure="died", message="its process ended"))
      for line in lines or ():
        self._take(key.data, line)
    limit = self._workers.limits.wall
    for process in [p for p, end in self._deadlines.items() if end < time.monotonic()]:
      self._lose(process, Outcome(failure="time", message=f"it took longer than {limit:g} s"))

  def _take(self, process: _Process, line: dict[str, Any]) -> None:
    """One line of a process."""
    if "unready" in line:
      hint = f"; {wall.HINT}" if process.walled else ""
      trouble = f"{line['unready']}{hint}"
      raise ConfigError(f"{self._workers.maker} cannot be used for scoring: {trouble}.")
    if "ready" in line:
      process.ready = True
    elif process.items:
      number = process.items.popleft()
      if line.get("died") != "SIGKILL" or not self._once_more(number):
        self._outcomes[number] = _outcome(line, self._workers.limits)
    if "died" in line:  # with what it had been sent; the one that follows it knows of nothing
      self._waiting.extendleft(reversed(process.items))
      process.items.clear()
    if process.items:
      self._extend(process)
    elif process in self._deadlines:
      self._release(process)

  def _release(self, process: _Process) -> None:
    self._selector.unregister(process.output)
    del self._deadlines[process]

  def _lose(self, process: _Process, outcome: Outcome) -> None:
    """Takes a process that ended or hangs out of work; its first item is what it died of."""
    self._release(process)
    self._workers.drop(process)
    if process.ready:
      number = process.items.popleft()
      if outcome.failure != "died" or not self._once_more(number):
        self._outcomes[number] = outcome
    else:
      self._starts += 1
      if self._starts == _STARTS:
        raise ConfigError(f"The processes that score with {self._workers.maker} do not start.")
    self._waiting.extendleft(reversed(process.items))

  def _once_more(self, number: int) -> bool:
    """Whether an item whose process was killed is judged again: once, for whoever else kills, as a
    system short of memory does, has nothing to do with it."""
    if number in self._again:
      return False
    self._again.add(number)
    self._waiting.appendleft(number)
    return True


def _outcome(line: dict[str, Any], limits: Limits) -> Outcome:
  """What a line says of an item."""
  if "died" in line:
    if line["died"] == "SIGPROF":
      return Outcome(failure="time", message=f"it took more than {limits.seconds:g} s to compute")
    return Outcome(failure="died", message=f"it ended its process ({line['died']})")
  if "failure" in line:
    return Outcome(failure=str(line["failure"]), message=str(line.get("message", "")))
  return Outcome(value=line.get("value"))
