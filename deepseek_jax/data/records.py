"""Records of files that nobody vouches for: lines of JSON, or one array of it, in any Unicode."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.data.formats import check_lines

_MARKS = (  # the longer ones first, for UTF-32's begins with UTF-16's
  (codecs.BOM_UTF8, "utf-8"),
  (codecs.BOM_UTF32_LE, "utf-32-le"),
  (codecs.BOM_UTF32_BE, "utf-32-be"),
  (codecs.BOM_UTF16_LE, "utf-16-le"),
  (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class RecordError(ConfigError):
  """A record that cannot be read; what is wrong with it, to be said behind its place."""


def decode_text(raw: bytes) -> str:
  """Text in the encoding that its byte-order mark names, UTF-8 without one; UnicodeDecodeError."""
  for mark, encoding in _MARKS:
    if raw.startswith(mark):
      return raw[len(mark) :].decode(encoding)
  return raw.decode("utf-8")


def marked(raw: bytes) -> bool:
  """Whether text begins with a byte-order mark."""
  return any(raw.startswith(mark) for mark, _ in _MARKS)


def whole_text(text: str) -> str:
  """The text with U+FFFD for each half of a surrogate pair that stands alone.

  Such a half is no character: JSON can spell one, and Python reads bytes that are no text as them.
  """
  if text.isascii():
    return text
  return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def read_records(path: Path) -> list[tuple[str, Any]]:
  """All records of a file with their places: lines of JSON that are not blank, or an array's items.

  Raises:
    ConfigError: the file cannot be read, or a line is no JSON.
  """
  try:
    raw = path.read_bytes()
  except FileNotFoundError as error:
    raise ConfigError(f"{path} does not exist.") from error
  except OSError as error:
    raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error
  check_lines(path, raw)
  try:
    text = decode_text(raw)
  except UnicodeDecodeError as error:
    raise ConfigError(f"{path} cannot be read as text ({error}); save it in UTF-8.") from error
  return list(_records(text, path))


def _records(text: str, path: Path) -> Iterator[tuple[str, Any]]:
  array = parse_array(text)
  if array is not None:
    for number, record in enumerate(array, start=1):
      yield f"{path}, record {number}", record
    return
  for number, line in enumerate(text.split("\n"), start=1):  # JSON may hold U+2028 and its like
    if line.strip():
      try:
        record = parse(line)
      except RecordError as error:
        raise ConfigError(f"{path}, line {number}, {error}") from error
      yield f"{path}, line {number}", record


def parse(text: str | bytes) -> Any:
  """The value that one line of JSON spells; RecordError if it spells none."""
  try:
    return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
  except (ValueError, RecursionError) as error:
    raise RecordError(f"is not valid JSON ({error}).") from error


def parse_array(text: str) -> list[Any] | None:
  """The items of a text that is one JSON array of records, None for any other text."""
  if not text.lstrip().startswith("["):
    return None
  try:
    items = json.loads(text)
  except (ValueError, RecursionError):
    return None
  return items if any(isinstance(item, dict) for item in items) else None
