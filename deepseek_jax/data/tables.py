"""Parquet and Arrow files; an extra: pip install 'deepseek-jax[parquet]'.

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
from deepseek_jax.data.messages import BESIDE
from deepseek_jax.data.records import RecordError
from deepseek_jax.data.sources import TEXT, Fields, advice

_KEPT_BLOCKS = 8


class TableSource:
  """Rows of Parquet or Arrow files, a document each."""

  def __init__(self, files: list[Path], fields: Fields = TEXT):
    self._fields = fields
    self._columns = [fields.text, *([fields.prompt] if fields.prompt else []), *BESIDE]
    self._blocks = [block for file in files for block in self._open(file)]
    self._ends = list(itertools.accumulate(rows for _, _, rows in self._blocks))
    self._read = functools.lru_cache(maxsize=_KEPT_BLOCKS)(self._read_block)

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> Document:
    block, row = self._place(int(index))
    try:
      columns = self._read(block)
      record = {name: column[row].as_py() for name, column in columns.items()}
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
      raise RecordError(f"cannot be read ({str(error).splitlines()[0]}).") from error
    return self._fields.document(record)

  def where(self, index: int) -> str:
    """Where a row lies: its file, and its number there, counted from 1."""
    block, row = self._place(int(index))
    file = self._blocks[block][0]
    before = sum(rows for other, _, rows in self._blocks[:block] if other == file)
    return f"{file}, row {before + row + 1}"

  def _place(self, index: int) -> tuple[int, int]:
    """The block of a row, and its place there."""
    block = bisect.bisect_right(self._ends, index)
    return block, index - (self._ends[block] - self._blocks[block][2])

  def _open(self, file: Path) -> list[tuple[Path, int, int]]:
    """The blocks of a file: (file, its number in it, rows)."""
    try:
      if file.suffix == ".arrow":
        batches = _arrow_batches(file)
        schema, rows = batches[0].schema if batches else None, [b.num_rows for b in batches]
      else:
        parquet = _pyarrow("parquet").ParquetFile(file)
        schema = parquet.schema_arrow
        rows = [
          parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)
        ]
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
      raise ConfigError(f"{file} cannot be read ({error}).") from error
    if rows:
      self._check(file, schema)
    return [(file, i, count) for i, count in enumerate(rows) if count]

  def _check(self, file: Path, schema: Any) -> None:
    """ConfigError if a column is missing; conversations need no column of prompts."""
    wanted = [self._fields.text]
    talks = self._fields.text in schema.names and "list" in str(schema.field(wanted[0]).type)[:10]
    if self._fields.prompt and not talks:
      wanted.append(self._fields.prompt)
    missing = [name for name in wanted if name not in schema.names]
    if missing:
      raise ConfigError(f"{file} has no column {missing[0]!r} {advice(schema.names)}")

  def _read_block(self, block: int) -> dict[str, Any]:
    """The wanted columns of a block, those of them that it has."""
    file, number, _ = self._blocks[block]
    if file.suffix == ".arrow":
      table = _arrow_batches(file)[number]
    else:
      table = _pyarrow("parquet").ParquetFile(file).read_row_group(number, columns=self._columns)
    return {name: table.column(name) for name in self._columns if name in table.schema.names}


def read_rows(file: Path) -> list[dict[str, Any]]:
  """All rows of a file, by column; ConfigError if it cannot be read."""
  try:
    if file.suffix == ".arrow":
      return [row for batch in _arrow_batches(file) for row in batch.to_pylist()]
    return _pyarrow("parquet").ParquetFile(file).read().to_pylist()
  except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
    raise ConfigError(f"{file} cannot be read ({error}).") from error


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
