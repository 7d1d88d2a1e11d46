"""Signs of life: who is gone, who hangs, and who is only slow.

A thread of each process says every second how many moves its main thread has made and where it
stands, and reads what the others say; every process judges all of them (`Watcher`), by its own
clock. A process is

  lost   that ended by an error, or of which nothing was heard for `silence` seconds: it died, or
         its machine did, or stands still as a whole
  hung   that is heard, but stands where it is while the others have gone on and wait for it, for
         `hang` seconds
  slow   that kept the others waiting for `slow` seconds, and then came: it is told, and no more

For the first two the run ends, on every process that is left, with one sentence and status `LOST`.
A collective on a device cannot be interrupted, so it is this thread that ends the process. Where
nobody moves, nobody is behind: they compile, or all wait for a device, and the run goes on.

By itself JAX (0.10) waits 100 s for a sign of a process and then aborts all others; where the
process is gone in which they meet, at once. So that one is apart, see `meeting.py`.
"""

import contextlib
import dataclasses
import json
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jax

from deepseek_jax.config import require
from deepseek_jax.hosts import meeting

LOST = 3  # exit status of the processes that are left
_EVERY = 1.0  # seconds between two signs of life
_GRACE = 10.0  # seconds in which all may end by the error by which one has
_SUSPECTED = 5.0  # seconds of silence that are enough where a collective has failed
_BEATS = "beat/"
_AGAIN = (
  "the run ends; the same command goes on from its newest checkpoint, also on fewer processes, "
  "with a mesh of their devices"
)


@dataclasses.dataclass(frozen=True)
class Patience:
  """How long others are waited for, in seconds."""

  meeting: int = 300  # until all processes are there
  silence: int = 30  # without a sign of life
  hang: float = 600.0  # at one place while the others wait
  slow: float = 10.0  # the same, from which it is told

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      require(value > 0, f"--{field.name}_seconds is {value}; it must be positive.")


@dataclasses.dataclass(frozen=True)
class Beat:
  """What a process says of itself."""

  number: int  # of its signs of life
  moves: int  # of its main thread
  place: str  # where that stands
  ended: str = ""  # by which error it ends


@dataclasses.dataclass
class _Seen:
  """A process as the watcher knows it, by the watcher's clock."""

  beat: Beat
  heard: float
  behind: float = math.inf  # since when another has been ahead of where it stands
  ended: float = math.inf  # since when it says that it ends


class Watcher:
  """Judges the processes by what they say; no clock and no network of its own."""

  def __init__(self, processes: int, patience: Patience, now: float):
    self._patience = patience
    start = Beat(0, 0, "its start")
    self._seen = {i: _Seen(start, now) for i in range(processes)}

  def look(
    self, beats: Mapping[int, Beat], now: float, suspicious: bool = False
  ) -> tuple[str, list[str]]:
    """Why the run has to end, or "", and what else is to be told.

    `suspicious` says that something else has shown that a process is lost, but not which.
    """
    told = [line for i, beat in beats.items() if (line := self._hear(i, beat, now))]
    silence = min(self._patience.silence, _SUSPECTED) if suspicious else self._patience.silence
    for i, seen in sorted(self._seen.items()):
      if seen.beat.ended:
        if now - seen.ended < _GRACE:
          continue
        return f"process {i} ended by an error ({_short(seen.beat.ended)})", told
      if (silent := now - seen.heard) >= silence:
        return f"process {i} is lost: nothing was heard of it for {silent:.0f} s", told
      ahead = any(other.beat.moves > seen.beat.moves for other in self._seen.values())
      seen.behind = min(seen.behind, now) if ahead else math.inf
      if (waited := now - seen.behind) >= self._patience.hang:
        return f"process {i} hangs: it has stood at {seen.beat.place} for {waited:.0f} s", told
    return "", told

  def _hear(self, i: int, beat: Beat, now: float) -> str:
    """Notes a sign of life; a line where a process has come that was waited for."""
    seen, line = self._seen[i], ""
    if beat.moves != seen.beat.moves:
      if (waited := now - seen.behind) >= self._patience.slow:
        line = f"process {i} is slow: the others waited {waited:.0f} s for it at {seen.beat.place}"
      seen.behind = math.inf
    if beat != seen.beat:
      seen.beat, seen.heard = beat, now
    if beat.ended:
      seen.ended = min(seen.ended, now)
    return line


def _short(error: str) -> str:
  """The last line of what a process ended with, which says most of a traceback."""
  return (error.strip().splitlines() or [""])[-1].rstrip(".")


class _Heart:
  """The threads of this process: one talks with the others, one knows if it gets no answer."""

  def __init__(self, client: Any, process: int, processes: int, patience: Patience):
    self.client, self.process, self.patience = client, process, patience
    self.moves, self.place, self.ended, self.suspicious = 0, "its start", "", False
    self.leaving = threading.Event()
    self._number = 0
    self._answered = time.monotonic()
    self._watcher = Watcher(processes, patience, self._answered)
    self._every = _EVERY * max(1.0, processes / 64)  # each reads what all say
    self.threads = [threading.Thread(target=t, daemon=True) for t in (self._talk, self._wait)]

  def beat(self) -> None:
    """One sign of life."""
    self._number += 1
    said = dataclasses.asdict(Beat(self._number, self.moves, self.place, self.ended))
    self.client.key_value_set(f"{_BEATS}{self.process}", json.dumps(said), allow_overwrite=True)

  def _talk(self) -> None:
    while not self.leaving.wait(self._every):
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        self.beat()
        found = self.client.key_value_dir_get(_BEATS)
        self._answered = time.monotonic()
        self._judge(found)

  def _judge(self, found: list[tuple[str, str]]) -> None:
    beats = {int(key.rpartition("/")[2]): Beat(**json.loads(said)) for key, said in found}
    verdict, told = self._watcher.look(beats, self._answered, self.suspicious)
    for line in told if self.process == 0 else []:
      print(line, file=sys.__stderr__, flush=True)
    self._end(verdict)

  def _wait(self) -> None:
    while not self.leaving.wait(_EVERY):
      if time.monotonic() - self._answered >= self.patience.silence:
        self._end("the processes' meeting place, beside process 0, does not answer")

  def _end(self, verdict: str) -> None:
    """The sentence of a process that is left, and its end, whatever its main thread is doing."""
    if verdict and not (self.ended or self.leaving.is_set()):
      print(f"{verdict}; {_AGAIN}.", file=sys.__stderr__, flush=True)
      leave(LOST)


_heart: _Heart | None = None


def begin(client: Any, process: int, processes: int, patience: Patience) -> None:
  """Starts this process's signs of life."""
  global _heart
  _heart = _Heart(client, process, processes, patience)
  _heart.beat()
  for thread in _heart.threads:
    thread.start()


def move(place: str) -> None:
  """Notes that the main thread has come to a place; all processes come to the same."""
  if _heart is not None:
    _heart.place = place
    _heart.moves += 1


def tell(error: str) -> None:
  """Says at once by what error this process ends."""
  if _heart is not None:
    _heart.ended = error
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      _heart.beat()


def ending(which: int) -> bool:
  """Whether a process has said that it ends."""
  assert _heart is not None
  said = dict(_heart.client.key_value_dir_get(_BEATS)).get(f"{_BEATS}{which}")
  return said is not None and bool(json.loads(said)["ended"])


def end() -> None:
  """No more signs, for all processes end."""
  global _heart
  if _heart is not None:
    _heart.leaving.set()
    for thread in _heart.threads:
      thread.join()
    _heart = None


def suspect() -> None:
  """Ends this process if the run has lost another; returns if not, and where it is alone.

  For who met an error that the loss of another may have caused.
  """
  if _heart is not None:
    _heart.suspicious = True
    _heart.threads[0].join(2 * _SUSPECTED)


def leave(status: int) -> None:
  """Ends this process at once, and waits for nothing of JAX's."""
  meeting.end(soon=True)
  for stream in (sys.stdout, sys.stderr, sys.__stderr__):
    with contextlib.suppress(OSError, ValueError):
      if stream is not None:
        stream.flush()
  os._exit(status)
