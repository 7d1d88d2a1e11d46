"""A program that runs: its output is read up to a bound, and its time is bounded."""

import contextlib
import dataclasses
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from typing import Literal

STARTING = 60.0  # seconds until a program begins, on a machine with much else to do
_LETTING_GO = 5.0  # seconds in which the pipes of what was killed are closed
_PIECE = 2**16


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one program may take.

  The kernel counts the processor's time and memory for each process by itself, so that all of a
  program's may together take `processes` times as much; `wall` bounds the former as well.
  """

  cpu: int = 6  # seconds of the processor
  wall: float = 20.0  # seconds of the clock, for all of it
  memory: int = 2**30  # bytes of address space
  disk: int = 2**25  # bytes of all its files
  file: int = 2**24  # bytes of one file
  open_files: int = 64
  processes: int = 8  # and threads
  output: int = 2**23  # bytes of what it prints, errors included

  def of_the_kernel(self, processes: bool) -> list[str | int]:
    """Soft and hard limits behind the names of `resource`."""
    found: list[str | int] = ["RLIMIT_CPU", self.cpu, self.cpu + 1]  # at the first it gets SIGXCPU
    for name, most in (
      ("RLIMIT_AS", self.memory),
      ("RLIMIT_FSIZE", self.file),
      ("RLIMIT_NOFILE", self.open_files),
      ("RLIMIT_CORE", 0),
      ("RLIMIT_MEMLOCK", 0),
      *([("RLIMIT_NPROC", self.processes)] if processes else []),
    ):
      found += [name, most, most]
    return found


DEFAULT = Limits()


@dataclasses.dataclass(frozen=True)
class Run:
  """How a program ran."""

  began: bool  # else it was never reached, and nothing is its fault
  status: int  # 0 if it ended well; 128 and the signal's number if it died of one
  output: bytes
  errors: bytes
  stopped: Literal["", "time", "output"] = ""  # why we ended it, if we did

  @property
  def timed_out(self) -> bool:
    """Whether it took too long, by the clock or the processor's."""
    return self.stopped == "time" or self.status == 128 + signal.SIGXCPU

  @property
  def last_words(self) -> str:
    """The last line of its errors."""
    lines = self.errors.decode(errors="replace").strip().splitlines()
    return " ".join(lines[-1].split())[:200] if lines else ""


class Running:
  """A program that was started; `finish` waits for it."""

  def __init__(
    self,
    popen: subprocess.Popen[bytes],
    ready: int,
    limits: Limits,
    folder: tempfile.TemporaryDirectory[str] | None = None,
  ) -> None:
    """`ready`: our end of the pipe on which it says that it begins; `folder` ends with it."""
    self._popen = popen
    self._folder = folder
    self._ready = ready
    self._reaping = threading.Lock()  # whom has been waited for must not be killed any more
    self._limits = limits
    self._began = self._ended = False
    self._said = {"output": bytearray(), "errors": bytearray()}
    self._deadline = time.monotonic() + STARTING

  def finish(self) -> Run:
    """Reads what it says until it ends or has to be ended."""
    try:
      stopped = self._read()
    finally:
      with self._reaping:
        self._kill()
        self._popen.wait()
      os.close(self._ready)
      if self._folder is not None:
        self._folder.cleanup()
      for stream in (self._popen.stdout, self._popen.stderr):
        if stream is not None:
          stream.close()
    code = self._popen.returncode
    return Run(
      began=self._began,
      status=code if code >= 0 else 128 - code,
      output=bytes(self._said["output"]),
      errors=bytes(self._said["errors"]),
      stopped=stopped,
    )

  def kill(self) -> None:
    """Ends it and all that it started, which dies with it in a sandbox; its group, outside."""
    with self._reaping:
      self._kill()

  def _kill(self) -> None:
    if self._popen.returncode is None:  # not waited for yet: the number is still its own
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._popen.pid, signal.SIGKILL)

  def _read(self) -> Literal["", "time", "output"]:
    assert self._popen.stdout is not None and self._popen.stderr is not None
    ended = os.pidfd_open(self._popen.pid)
    try:
      with selectors.DefaultSelector() as selector:
        selector.register(self._popen.stdout, selectors.EVENT_READ, "output")
        selector.register(self._popen.stderr, selectors.EVENT_READ, "errors")
        selector.register(self._ready, selectors.EVENT_READ, "ready")
        selector.register(ended, selectors.EVENT_READ, "ended")
        return self._hear(selector)
    finally:
      os.close(ended)

  def _hear(self, selector: selectors.BaseSelector) -> Literal["", "time", "output"]:
    """Until it has ended, and all that could write for it as well."""
    while selector.get_map():
      wait = self._deadline - time.monotonic()
      if wait <= 0:
        return "" if self._ended else "time"
      for key, _ in selector.select(wait):
        if key.data == "ended":
          self._group_ends()
          selector.unregister(key.fileobj)
        elif not self._take(key):
          selector.unregister(key.fileobj)
      if sum(map(len, self._said.values())) > self._limits.output:
        return "output"
    return ""

  def _take(self, key: selectors.SelectorKey) -> bool:
    """One piece of a stream; False at its end."""
    piece = os.read(key.fd, _PIECE)
    if key.data != "ready":
      self._said[key.data] += piece
    elif piece and not self._began:
      self._began = True
      self._deadline = time.monotonic() + self._limits.wall
    return bool(piece)

  def _group_ends(self) -> None:
    """The program has ended: what it left behind ends too, and has a moment to let go of pipes."""
    self.kill()
    self._ended = True
    self._deadline = time.monotonic() + _LETTING_GO
