"""Where a benchmark's records come from: a file, a dataset's directory, or a name on the Hub."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek_jax.by_name import dataset_path, pinned
from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.dataset_files import find_dataset
from deepseek_jax.data.records import read_records
from deepseek_jax.data.tables import read_rows
from deepseek_jax.paths import local_path

_TABLES = (".parquet", ".arrow")


def benchmark_records(
  path: str | os.PathLike[str], split: str = "test"
) -> tuple[str, list[tuple[str, Any]]]:
  """A benchmark's name, and its records with their places.

  Args:
    path: a file of JSON lines, a JSON array, a table (`.parquet`, `.arrow`), a directory as Hugging
      Face's datasets have it, or `org/name[@revision]`.
    split: of a dataset; `CONFIGURATION/SPLIT` where it has several configurations. It is part of
      the name, as is the revision of one that was fetched.

  Raises:
    ConfigError: there is no such thing, or it is not certain which files are meant.
  """
  root = local_path(path)
  if root.suffix not in (*_TABLES, ".json", ".jsonl"):  # of which there may be none here
    root = dataset_path(path)
  missing = (
    "is a URL, which is not read; fetch the file" if "://" in str(path) else "does not exist"
  )
  require(root.exists(), f"the benchmark {path} {missing}.")
  if not root.is_dir():
    return root.stem, list(_read(root))
  try:
    files = find_dataset(root, split)
  except ConfigError as error:
    message = str(error).replace("data.path", "benchmark").replace("data.split", "split")
    raise ConfigError(message) from error
  name = Path(pinned(os.fspath(path), "dataset")).name
  return f"{name}/{split}", [record for file in files for record in _read(file)]


def _read(file: Path) -> Iterator[tuple[str, Any]]:
  """A file's records, each with the file and its number there."""
  if file.suffix not in _TABLES:
    yield from read_records(file)
    return
  for number, row in enumerate(read_rows(file), start=1):
    yield f"{file}, row {number}", row
