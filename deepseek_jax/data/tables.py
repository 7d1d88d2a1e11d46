"""Parquet files and local Hugging Face datasets; an extra: pip install 'deepseek-jax[parquet]'.

Both are read a block (Parquet row group, Arrow record batch) at a time, the last few being kept:
reading in order is fast; a shuffled Parquet corpus is best written with small row groups.
"""

import bisect
import functools
import itertools
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.data.document import Document
from deepseek_jax.data.sources import TEXT, Fields, JsonlSource, find_files

_KEPT_BLOCKS = 8


class TableSource:
  """Rows of Parquet or Arrow files, a document each."""

  def __init__(self, files: list[Path], fields: Fields = TEXT):
    self._fields = fields
    self._columns = [fields.text, *([fields.prompt] if fields.prompt else [])]
    self._blocks = [block for file in files for block in self._open(file)]
    self._ends = list(itertools.accumulate(rows for _, _, rows in self._blocks))
    self._read = functools.lru_cache(maxsize=_KEPT_BLOCKS)(self._read_block)

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> Document:
    index = int(index)
    block = bisect.bisect_right(self._ends, index)
    file, _, rows = self._blocks[block]
    row = index - (self._ends[block] - rows)
    columns = self._read(block)
    record = {name: column[row].as_py() for name, column in columns.items()}
    return self._fields.document(record, f"{file}, row {index} of the corpus,")

  def _open(self, file: Path) -> list[tuple[Path, int, int]]:
    """The blocks of a file: (file, its number in it, rows)."""
    try:
      if file.suffix == ".arrow":
        batches = _arrow_batches(file)
        names, rows = batches[0].schema.names if batches else [], [b.num_rows for b in batches]
      else:
        parquet = _pyarrow("parquet").ParquetFile(file)
        names = parquet.schema_arrow.names
        rows = [
          parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)
        ]
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
      raise ConfigError(f"{file} cannot be read ({error}).") from error
    missing = [name for name in self._columns if rows and name not in names]
    if missing:
      raise ConfigError(
        f"{file} has no column {missing[0]!r} (columns: {', '.join(names)}); set data.text_field "
        "or data.prompt_field."
      )
    return [(file, i, count) for i, count in enumerate(rows) if count]

  def _read_block(self, block: int) -> dict[str, Any]:
    """The wanted columns of a block."""
    file, number, _ = self._blocks[block]
    if file.suffix == ".arrow":
      table = _arrow_batches(file)[number]
    else:
      table = _pyarrow("parquet").ParquetFile(file).read_row_group(number, columns=self._columns)
    return {name: table.column(name) for name in self._columns}


def parquet_source(path: str | Path, fields: Fields = TEXT) -> TableSource:
  """A Parquet file, or all below a directory."""
  return TableSource(find_files(path, (".parquet",)), fields)


def hf_source(
  path: str | Path, fields: Fields = TEXT, split: str = "train"
) -> TableSource | JsonlSource:
  """A local Hugging Face dataset: what `save_to_disk` wrote, or a downloaded repository.

  Arrow files are looked for first, then Parquet, then JSON lines.
  """
  for ending in (".arrow", ".parquet"):
    if Path(path).is_dir() and any(Path(path).rglob(f"*{ending}")):
      return TableSource(find_files(path, (ending,), split), fields)
  return JsonlSource(find_jsonl(path), fields, split)


def find_jsonl(path: str | Path) -> Path:
  """The directory, if it holds JSON lines; ConfigError otherwise."""
  root = Path(path)
  if not root.is_dir() or not any(root.rglob("*.jsonl")):
    raise ConfigError(
      f"data.path {str(path)!r} is not a dataset directory of arrow, parquet or jsonl files."
    )
  return root


@functools.lru_cache(maxsize=_KEPT_BLOCKS)
def _arrow_batches(file: Path) -> list[Any]:
  """Record batches of an Arrow stream or file, mapped into memory and not copied."""
  pyarrow = _pyarrow()
  mapped = pyarrow.memory_map(str(file))
  try:
    return list(_pyarrow("ipc").open_stream(mapped))
  except pyarrow.ArrowInvalid:
    reader = _pyarrow("ipc").open_file(mapped)
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _pyarrow(module: str = "") -> Any:
  """pyarrow or one of its modules."""
  import importlib

  try:
    return importlib.import_module(f"pyarrow.{module}" if module else "pyarrow")
  except ImportError as error:
    raise ConfigError(
      "pyarrow is not installed; pip install 'deepseek-jax[parquet]' to read tables."
    ) from error
