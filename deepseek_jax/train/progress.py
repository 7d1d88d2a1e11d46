"""Lines that say how far a run is, how fast, and how long it will take."""

import sys
import time
from typing import TextIO


class Progress:
  """Prints to `stream` at most once in `every` seconds."""

  def __init__(self, steps: int, every: float, stage: str = "", stream: TextIO | None = None):
    self._steps = steps
    self._every = every
    self._prefix = f"{stage}: " if stage else ""
    self._stream = stream or sys.stderr
    self._first: tuple[float, int, int] | None = None  # seconds, step, tokens: after compiling
    self._shown = time.monotonic()

  def show(self, step: int, tokens: int, loss: float | None) -> None:
    """Takes a step's figures, and prints them if it is time."""
    now = time.monotonic()
    if self._first is None:
      self._first = (now, step, tokens)
    if now - self._shown < self._every:
      return
    self._shown = now
    shown = "" if loss is None else f"  loss {loss:.4f}"
    self._print(f"step {step}/{self._steps}{shown}{self._pace(now, step, tokens)}")

  def finish(self, step: int, tokens: int) -> None:
    """Says where the run ended."""
    if self._first is not None:
      self._print(f"step {step}/{self._steps}  {tokens:,} tokens, saved")

  def nothing(self, step: int) -> None:
    """Says that the run was at its end before it began."""
    why = ", where its data ends" if step < self._steps else ""
    wanted = self._steps if step <= self._steps else f"{self._steps} wanted"
    self._print(f"finished at step {step} of {wanted}{why}; nothing to do")

  def _pace(self, now: float, step: int, tokens: int) -> str:
    """Rate and time left; the first step, which compiles, does not count."""
    assert self._first is not None
    began, first_step, first_tokens = self._first
    if step == first_step:
      return ""
    seconds = max(now - began, 1e-9)
    left = (self._steps - step) * seconds / (step - first_step)
    return f"  {(tokens - first_tokens) / seconds:,.0f} tokens/s  {duration(left)} left"

  def _print(self, line: str) -> None:
    print(self._prefix + line, file=self._stream, flush=True)


def duration(seconds: float) -> str:
  """Seconds as 42s, 3m05s or 2h07m."""
  whole = round(seconds)
  if whole < 60:
    return f"{whole}s"
  if whole < 3600:
    return f"{whole // 60}m{whole % 60:02d}s"
  return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
