"""A run's directory: whose it is, and where everything lies in it.

config.json is the run's whole configuration with every default written out, so that a directory
is resumed only by the run that made it. Fields that change how long or where a run goes, not what
it computes at a step, are free.
"""

import fnmatch
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError, require

# Patterns of dotted field names: total steps, logging and saving, evaluation size, mesh.
FREE_FIELDS = (
  "*train.steps",
  "*train.checkpoint_every",
  "*train.keep",
  "*train.log_every",
  "*train.progress_seconds",
  "*train.profile_steps",
  "*evaluation.*",
  "*mesh.*",
)
_NAMED = 5  # differing fields named in a message


class Workdir:
  """A run's directory, claimed for one configuration.

  Raises:
    ConfigError: it belongs to another configuration; the message names the fields that differ.
  """

  def __init__(
    self, path: str | Path, config: Mapping[str, Any], free: Sequence[str] = FREE_FIELDS
  ):
    self.path = Path(path).absolute()
    _claim(self.path, json.loads(json.dumps(config)), free)

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
  file = Path(path) / "config.json"
  require(file.is_file(), f"{path} is no workdir: it has no config.json.")
  try:
    return json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ConfigError(f"{file} is not valid JSON ({error}).") from error


def write_atomically(path: str | Path, text: str) -> None:
  """Writes a file beside its place and renames it; on an error nothing is left behind."""
  path = Path(path)
  beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with open(beside, "w", encoding="utf-8") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(beside, path)
  except BaseException:
    beside.unlink(missing_ok=True)
    raise


def _claim(path: Path, config: dict[str, Any], free: Sequence[str]) -> None:
  """Writes config.json, after comparing it to the one there is."""
  file = path / "config.json"
  if file.exists():
    old = read_config(path)
    if old == config:
      return
    _compare(path, dict(_flatten(old)), dict(_flatten(config)), free)
  else:
    require(
      not path.exists() or path.is_dir(), f"--workdir {path} is a file; name a directory for it."
    )
    require(
      not (path / "checkpoints").exists(),
      f"{path} has checkpoints but no config.json; name another --workdir.",
    )
  try:
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(config, indent=2) + "\n")
  except OSError as error:
    raise ConfigError(
      f"--workdir {path} cannot be written ({error.strerror}); name another."
    ) from error


def _compare(
  path: Path, old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str]
) -> None:
  absent = "absent"
  differing = [
    f"{name} was {old.get(name, absent)!r} and is {new.get(name, absent)!r}"
    for name in sorted(old.keys() | new.keys())
    if old.get(name, absent) != new.get(name, absent)
    and not any(fnmatch.fnmatchcase(name, pattern) for pattern in free)
  ]
  more = f", and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
  require(
    not differing,
    f"{path} belongs to a run of another config: {'; '.join(differing[:_NAMED])}{more}; "
    "name another --workdir or give these fields their old values.",
  )


def _flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Dotted names and values; an empty mapping is a value."""
  if isinstance(config, Mapping) and config:
    for key, value in config.items():
      yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
  else:
    yield prefix, config
