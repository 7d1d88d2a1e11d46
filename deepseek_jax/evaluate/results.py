"""results.json and metrics.jsonl: reading them, and writing the former whole or not at all."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate.figures import Figure
from deepseek_jax.train.workdir import write_atomically


def write_results(
  path: str | os.PathLike[str],
  figures: Sequence[Figure],
  wall_seconds: float,
  ledger: Sequence[Mapping[str, Any]] = (),
) -> None:
  """Writes {"figures", "wall_seconds", "ledger"}; numbers that are not finite become null."""
  results = {"figures": list(figures), "wall_seconds": wall_seconds, "ledger": list(ledger)}
  text = json.dumps(finite(results), indent=1, ensure_ascii=False, allow_nan=False)
  write_text(path, text + "\n")


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads what `write_results` wrote; ConfigError if it is missing or damaged."""
  try:
    results = json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise ConfigError(f"The results {path} cannot be read ({error}).") from error
  if not isinstance(results, dict) or not isinstance(results.get("figures"), list):
    raise ConfigError(f'The results {path} have no list "figures".')
  return results


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
  """The records of a metrics.jsonl, none if there is no such file.

  A last line that a killed run left unfinished is dropped.
  """
  path = Path(path)
  if not path.is_file():
    return []
  lines = path.read_bytes().splitlines()  # a kill may cut a character in two
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      records.append(json.loads(line))
    except ValueError as error:
      if number < len(lines):
        raise ConfigError(f"{path}, line {number}, is not valid JSON ({error}).") from error
  return records


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Writes beside and renames, so that readers see the old file or the new one."""
  path = Path(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
  except OSError as error:
    raise ConfigError(f"{path} cannot be written ({error.strerror}).") from error


def finite(value: Any) -> Any:
  """The value with NaN and infinity replaced by None, which JSON has."""
  if isinstance(value, float) and not math.isfinite(value):
    return None
  if isinstance(value, Mapping):
    return {k: finite(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [finite(v) for v in value]
  return value
