"""metrics.jsonl and TensorBoard: one record per logged step, exactly once, kills included.

A record is written before the checkpoint of its step is, and a run that resumes removes the
records behind its checkpoint. So the file always tells one uninterrupted story; only the fields
in `WALL_CLOCK` depend on when and where it ran.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.hosts import group
from deepseek_jax.train.checkpoint import disk_is_full
from deepseek_jax.train.workdir import write_atomically

WALL_CLOCK = ("seconds", "tokens_per_second", "sampling_seconds")


class MetricsLog:
  """The records of a run, or of one stage of a run that shares its directory with others."""

  def __init__(self, directory: str | Path, stage: str = ""):
    self.path = Path(directory) / "metrics.jsonl"
    self.stage = stage
    self._events = Path(directory) / "tensorboard" / stage
    self._writer: Any = None

  def resume(self, step: int) -> None:
    """Removes this stage's records behind `step`, and a line that a kill cut short."""
    kept = [r for r in read_metrics(self.path) if not (self._own(r) and r["step"] > step)]
    if self.path.exists() or kept:
      write_atomically(self.path, "".join(json.dumps(r) + "\n" for r in kept))
    self.close()
    if not group.first():
      return
    from tensorboardX import SummaryWriter  # which imports torch where that is installed

    self._writer = SummaryWriter(str(self._events), purge_step=step + 1)

  def write(self, step: int, record: Mapping[str, Any]) -> None:
    """Appends the record of `step` as one line.

    Raises:
      ConfigError: the disk is full; the file is left as it was.
    """
    head = {"stage": self.stage} if self.stage else {}
    append_line(self.path, json.dumps({**head, "step": step, **record}, allow_nan=False))
    if self._writer is not None:
      for name, value in record.items():
        if isinstance(value, int | float):
          self._writer.add_scalar(name, value, step)

  def sync(self) -> None:
    """Makes the operating system write what it holds back."""
    if group.first() and self.path.exists():
      with open(self.path, "rb") as file:
        os.fsync(file.fileno())
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    """Closes the TensorBoard events."""
    if self._writer is not None:
      self._writer.close()
      self._writer = None

  def _own(self, record: Mapping[str, Any]) -> bool:
    return record.get("stage", "") == self.stage


def append_line(path: Path, line: str) -> None:
  """Adds a line to a file; ConfigError, and the file as it was, where the disk is full.

  Of several processes the first does.
  """
  if not group.first():
    return
  size = path.stat().st_size if path.exists() else 0
  try:
    with open(path, "a", encoding="utf-8", errors="replace") as file:
      file.write(line + "\n")
  except OSError as error:
    if not disk_is_full(error):
      raise
    os.truncate(path, size)
    raise ConfigError(
      f"the disk of {path} is full; free some space and run the same command again."
    ) from error


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
  """The records of a file of lines in order; a last line that a kill cut short is left out."""
  path = Path(path)
  if not path.exists():
    return []
  lines = path.read_bytes().split(b"\n")  # a kill may cut a character in two
  return [json.loads(line) for line in lines[:-1]]
