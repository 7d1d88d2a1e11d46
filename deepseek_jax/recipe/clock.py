"""Where a run's time goes: seconds by part, with what XLA compiles in any of them told apart."""

import contextlib
import time
from collections.abc import Iterator

from deepseek_jax import compilation


class Clock:
  """Seconds by part since it was made.

    with clock("training"):
      with clock("sampling"): ...  # is no part of the training

  Attributes:
    seconds: by part, without those of compiling.
  """

  def __init__(self) -> None:
    self.seconds: dict[str, float] = {}
    self._watch = compilation.watch()
    self._before = self._watch.programs, self._watch.cached, self._watch.seconds
    self._began = time.monotonic()

  @contextlib.contextmanager
  def __call__(self, part: str) -> Iterator[None]:
    """Adds what passes within to `part`, but for what another part within took."""
    began = self._now()
    try:
      yield
    finally:
      own = self._now() - began
      self.seconds[part] = self.seconds.get(part, 0.0) + own

  def _now(self) -> float:
    """Seconds that belong to no part yet and were not spent on compiling."""
    return time.monotonic() - self._watch.seconds - sum(self.seconds.values())

  @property
  def total(self) -> float:
    """Seconds since the clock was made, compiling included."""
    return time.monotonic() - self._began

  @property
  def compile_seconds(self) -> float:
    """Of them, those in which programs were compiled or read from the cache."""
    return self._watch.seconds - self._before[2]

  @property
  def programs(self) -> int:
    """How many were compiled."""
    return self._watch.programs - self._before[0]

  @property
  def cached(self) -> int:
    """How many were read from the cache instead."""
    return self._watch.cached - self._before[1]
