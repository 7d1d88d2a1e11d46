"""Files that are no lines of JSON though they were named as such: what they are, and the mend."""

from pathlib import Path

from deepseek_jax.config import ConfigError

_PACKED = {
  b"\x1f\x8b": "gzip",
  b"\x28\xb5\x2f\xfd": "zstd",
  b"PK\x03\x04": "zip",
  b"BZh": "bzip2",
  b"\xfd7zXZ\x00": "xz",
}
_TABLES = {b"PAR1": "parquet", b"ARROW1": "arrow"}
_CELLS = {".csv": "CSV", ".tsv": "TSV"}


def check_lines(path: Path, begin: bytes) -> None:
  """ConfigError where a file's name or beginning says that it holds no JSON."""
  for mark, name in _PACKED.items():
    if begin.startswith(mark):
      raise ConfigError(f"{path} is packed with {name}, which is not read; unpack it.")
  for mark, name in _TABLES.items():
    if begin.startswith(mark):
      raise ConfigError(f"{path} is a {name.title()} table; give it the ending .{name}.")
  cells = _CELLS.get(path.suffix.lower())
  if cells and begin.lstrip()[:1] not in (b"{", b"["):
    raise ConfigError(
      f"{path} is {cells}, which is not read; write its rows as lines of JSON, a "
      "record with the columns' names for its fields in each."
    )
