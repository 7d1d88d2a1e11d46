"""A run's directory: whose it is, and where everything lies in it.

config.json is the run's whole configuration with every default written out, so that a directory
is resumed only by the run that made it. Fields that change how long or where a run goes, not what
it computes at a step, are free. A field that an older program did not have had its default.

One run at a time trains in a directory. Its process, of several the first, holds the operating
system's lock on W/.lock, which goes with the process however that ends, so that a killed run can go
on at once; W/.holder says which process it is. Whoever only reads a workdir needs no lock.
"""

import fnmatch
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepseek_jax.config import ConfigError, completed, require, to_dict
from deepseek_jax.hosts import group
from deepseek_jax.paths import local_path

# Patterns of dotted field names: total steps, logging and saving, evaluation size, mesh.
FREE_FIELDS = (
  "*train.steps",
  "*train.checkpoint_every",
  "*train.keep",
  "*train.log_every",
  "*train.progress_seconds",
  "*train.profile_steps",
  "*evaluation.*",
  "*rl.largest_gap",
  "samples.*",
  "*mesh.*",
)
_GROWING = ("*rollout.width",)  # free to grow: a longer prompt finds room, the others are as before
_NAMED = 5  # differing fields named in a message


class Workdir:
  """A run's directory, claimed for one configuration, and for this process until it is closed.

  `config` is a dataclass, or plain values, which know of no defaults.

  Raises:
    ConfigError: it belongs to another configuration; the message names the fields that differ. Or
      another run is at work in it; the message names its process. Or another process of this run
      does not see it.
  """

  _lock: FileLock | None = None

  def __init__(self, path: str | Path, config: Any, free: Sequence[str] = FREE_FIELDS):
    self.path = local_path(path).absolute()
    given = _values(config)
    group.same("config", given)
    group.from_first(lambda: self._claim(given, config, free))
    require(
      (self.path / "config.json").is_file(),
      f"--workdir {path} is not there for every process; name a directory that they share.",
    )

  def _claim(self, given: dict[str, Any], config: Any, free: Sequence[str]) -> None:
    """Makes the directory this run's, whose configuration is `given` as JSON has it."""
    check_workdir(self.path, config, free)
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = _locked(self.path)
      try:
        check_workdir(self.path, config, free)  # for who had the lock may have made it theirs
        write_atomically(self.path / "config.json", json.dumps(given, indent=2) + "\n")
      except BaseException:
        self.close()
        raise
    except OSError as error:
      raise ConfigError(
        f"--workdir {self.path} cannot be written ({error.strerror}); name another."
      ) from error

  def keep(self, what: str, parts: Mapping[str, Any]) -> None:
    """Notes what a run learns from by its fingerprint: its corpus, its reward model.

    A run that noted none, for it is older than that, notes what it finds.

    Raises:
      ConfigError: it is not the one that the run began with; the message names the parts. Or it is
        not the same on all processes.
    """
    now = json.loads(json.dumps(parts))
    group.same(what, now)
    group.from_first(lambda: self._keep(what, now))

  def _keep(self, what: str, now: Mapping[str, Any]) -> None:
    note = self.path / f"{what.replace(' ', '_')}.json"
    if note.is_file():
      try:
        before = json.loads(note.read_text(encoding="utf-8"))
      except ValueError as error:
        raise ConfigError(f"{note} is not valid JSON ({error}); delete it.") from error
      changed = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
      more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
      require(
        not changed,
        f"the {what} is not the one that the run in {self.path} began with: "
        f"{', '.join(changed[:_NAMED])}{more} differ; bring back what was there, name another "
        f"--workdir, or delete {note} to go on with this one.",
      )
    write_atomically(note, json.dumps(now, indent=1) + "\n")

  def close(self) -> None:
    """Lets other processes have it."""
    if self._lock is not None:
      self._lock.release()

  def __enter__(self) -> "Workdir":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  @property
  def checkpoints(self) -> Path:
    """Where the run's checkpoints lie."""
    return self.path / "checkpoints"

  @property
  def tokenizer(self) -> Path:
    """Where the run's tokenizer lies."""
    return self.path / "tokenizer"

  @property
  def profile(self) -> Path:
    """Where traces of `--profile_steps` lie."""
    return self.path / "profile"


def read_config(path: str | Path) -> dict[str, Any]:
  """The config.json of a run's directory; ConfigError where it has none."""
  file = local_path(path) / "config.json"
  require(file.is_file(), f"{path} is no workdir: it has no config.json.")
  try:
    return json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ConfigError(f"{file} is not valid JSON ({error}).") from error


def write_atomically(path: str | Path, text: str) -> None:
  """Writes a file beside its place and renames it; on an error nothing is left behind.

  Of several processes the first does.
  """
  if not group.first():
    return
  path = Path(path)
  beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    # Half a surrogate pair, which a path or a prompt may hold, is no text that a file can.
    with open(beside, "w", encoding="utf-8", errors="replace") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(beside, path)
  except BaseException:
    beside.unlink(missing_ok=True)
    raise


def _locked(path: Path) -> FileLock:
  """The lock on a directory, held; ConfigError names the process that has it."""
  lock, holder = FileLock(path / ".lock"), path / ".holder"
  try:
    lock.acquire(timeout=0)
  except Timeout as error:
    by = holder.read_text(encoding="utf-8").strip() if holder.is_file() else "another process"
    raise ConfigError(
      f"{path} is in use by {by}; wait for its end, or name another --workdir."
    ) from error
  write_atomically(holder, f"process {os.getpid()} on {socket.gethostname()}\n")
  return lock


def _values(config: Any) -> dict[str, Any]:
  """A configuration as config.json has it."""
  return _plain(config if isinstance(config, Mapping) else to_dict(config))


def _plain(values: Any) -> Any:
  """The values as JSON has them."""
  return json.loads(json.dumps(values))


def check_workdir(path: Path, config: Any, free: Sequence[str] = FREE_FIELDS) -> None:
  """ConfigError where a directory is no workdir, or that of another configuration.

  Nothing is claimed or written.
  """
  given = _values(config)
  if (path / "config.json").exists():
    old = read_config(path)
    require(
      _is_a_runs(old, given),
      f"--workdir {path} has a config.json that is no run's of this program; name another "
      "directory for the run.",
    )
    if old != given:
      old = old if isinstance(config, Mapping) else _plain(completed(old, config))
      _compare(path, dict(_flatten(old)), dict(_flatten(given)), free)
    return
  require(
    not path.exists() or path.is_dir(), f"--workdir {path} is a file; name a directory for it."
  )
  require(
    not (path / "checkpoints").exists(),
    f"{path} has checkpoints but no config.json; name another --workdir.",
  )


def _is_a_runs(old: Any, config: Mapping[str, Any]) -> bool:
  """Whether a config.json may be of a run, this one's or another job's, and not a model's."""
  names = {"model", "teacher", *config}
  return isinstance(old, dict) and "model_type" not in old and not names.isdisjoint(old)


def _compare(
  path: Path, old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str]
) -> None:
  absent = "absent"
  differing = [
    f"{name} was {old.get(name, absent)!r} and is {new.get(name, absent)!r}"
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)  # so that a field of newer versions may be there as None
    and not any(fnmatch.fnmatchcase(name, pattern) for pattern in free)
    and not _has_grown(name, old.get(name), new.get(name))
  ]
  more = f", and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
  require(
    not differing,
    f"{path} belongs to a run of another config: {'; '.join(differing[:_NAMED])}{more}; "
    "name another --workdir or give these fields their old values.",
  )


def _has_grown(name: str, old: Any, new: Any) -> bool:
  """Whether a field is one that may grow, and has."""
  growing = any(fnmatch.fnmatchcase(name, pattern) for pattern in _GROWING)
  return growing and isinstance(old, int) and isinstance(new, int) and new > old


def _flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Dotted names and values; an empty mapping is a value."""
  if isinstance(config, Mapping) and config:
    for key, value in config.items():
      yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
  else:
    yield prefix, config
