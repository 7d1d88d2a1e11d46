"""Compiling once: the folder in which compiled programs are kept, and the count of those compiled.

The folder is XLA's persistent cache. Its key says nothing of the processor that machine code was
made for, so the folder's name does: a home directory may be shared by unlike machines.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import jax
import jaxlib

LARGEST = 4 * 2**30  # bytes in a folder; the entries used least recently go first
SHORTEST = 0.02  # seconds: what compiles faster is not worth a file; a start has two dozen others
_UNUSED_DAYS = 60  # after which the folder of another processor or jaxlib goes
_COMPILE = "/jax/core/compile/backend_compile_duration"
_HIT = "/jax/compilation_cache/cache_hits"


def use_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
  """Keeps compiled programs below `folder`, by default in the user's cache directory.

  JAX's own settings win: where its folder is set already or its cache is off, nothing changes, and
  its other variables (JAX_COMPILATION_CACHE_MAX_SIZE, ...) stand. Several processes may share the
  folder. A damaged entry is compiled anew. Returns the folder in use, or None without one; a
  folder that cannot be written to is told on standard error.
  """
  config: Any = jax.config  # whose fields are made at run time
  if not config.jax_enable_compilation_cache:
    return None
  if folder is None and config.jax_compilation_cache_dir:
    return Path(config.jax_compilation_cache_dir)
  try:
    root = _default_root() if folder is None else Path(folder).expanduser()
    mine = root / _name()
    mine.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=mine):
      pass
    _tidy(mine)
  except (OSError, RuntimeError) as error:  # the latter of a user without a home
    print(f"compiled programs are not kept: {error}", file=sys.stderr)
    return None
  config.update("jax_compilation_cache_dir", str(mine))
  if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
    config.update("jax_compilation_cache_max_size", LARGEST)
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
  return mine


def _default_root() -> Path:
  base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
  return Path(base).expanduser() / "deepseek_jax" / "compiled"


def _name() -> str:
  """The folder of this jaxlib and this processor."""
  digest = hashlib.sha256(processor().encode()).hexdigest()[:12]
  return f"jaxlib-{jaxlib.__version__}-{platform.machine()}-{digest}"


def processor() -> str:
  """The processor's model and the instructions it has, as far as the system tells."""
  lines = {platform.processor()}
  with contextlib.suppress(OSError), open("/proc/cpuinfo") as info:
    for line in info:
      name, _, value = line.partition(":")
      if name.strip() in ("model name", "flags", "Features", "CPU part"):
        lines.add(" ".join(sorted(value.split())))
  return "\n".join(sorted(lines))


def _tidy(mine: Path) -> None:
  """Marks the folder as used, removes what a killed process left half, and folders long unused.

  JAX writes an entry and then when it was used; an entry without the second would stop it from
  ever making room.
  """
  os.utime(mine)
  old = time.time() - _UNUSED_DAYS * 86400
  for other in mine.parent.glob("jaxlib-*"):
    if other != mine and other.is_dir() and other.stat().st_mtime < old:
      shutil.rmtree(other, ignore_errors=True)
  recent = time.time() - 60  # another process may be writing these
  for entry in mine.glob("*-cache"):
    used = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
    with contextlib.suppress(FileNotFoundError):
      if not used.exists() and entry.stat().st_mtime < recent:
        entry.unlink()


class Watch:
  """What this process has compiled since the watch began.

  Attributes:
    programs: compiled by XLA.
    cached: read from the cache instead.
    seconds: of both.
  """

  def __init__(self) -> None:
    self.programs = self.cached = 0
    self.seconds = 0.0
    self.names: list[str] = []  # of `programs`, in order
    self._hits = 0
    self._stream: TextIO | None = None
    self._patience: float | None = None  # None: it tells nothing
    self._timer: threading.Timer | None = None
    jax.monitoring.register_event_listener(self._event)
    jax.monitoring.register_event_duration_secs_listener(self._ended)
    jax.monitoring.register_scalar_listener(self._began)

  def tell(self, stream: TextIO | None = None, patience: float = 1.0) -> None:
    """Says what is being compiled if it takes longer than `patience` seconds, on standard error
    unless there is a stream.
    """
    self._stream, self._patience = stream, patience

  def hush(self) -> None:
    """Says nothing any more."""
    self._patience = None

  def _event(self, event: str, **_: str | int) -> None:
    self._hits += event == _HIT

  def _began(self, event: str, value: float | int, **told: str | int) -> None:
    if event == _COMPILE and self._patience is not None:
      self._timer = threading.Timer(self._patience, self._say, (_name_of(told),))
      self._timer.daemon = True
      self._timer.start()

  def _ended(self, event: str, duration_secs: float, **told: str | int) -> None:
    if event != _COMPILE:
      return
    if self._timer is not None:
      self._timer.cancel()
    self.seconds += duration_secs
    if self._hits:
      self.cached += 1
    else:
      self.programs += 1
      self.names.append(_name_of(told))
    self._hits = 0

  def _say(self, name: str) -> None:
    done = f"{self.programs} done in {self.seconds:.0f} s" if self.programs else "the first"
    print(f"compiling {name} ({done})", file=self._stream or sys.stderr, flush=True)


def _name_of(told: dict[str, str | int]) -> str:
  """`decode` of `jit(decode)`."""
  return str(told.get("fun_name", "")).removeprefix("jit(").removesuffix(")")


_watch: Watch | None = None


def watch() -> Watch:
  """The process's one watch, begun at the first call: JAX keeps its listeners for ever."""
  global _watch
  if _watch is None:
    _watch = Watch()
  return _watch
