"""Corpora of text files and JSON records; each is a `grain.sources.RandomAccessDataSource`.

A source raises RecordError for a record that it cannot read, and `where` says which that is.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deepseek_jax.data.document import Document
from deepseek_jax.data.formats import check_lines
from deepseek_jax.data.messages import read_conversation
from deepseek_jax.data.records import (
  RecordError,
  decode_text,
  marked,
  parse,
  parse_array,
  whole_text,
)

_TALKS = ("messages", "conversations", "conversation")  # as others call lists of messages
_BLOCK = 1 << 20  # bytes of a file that are read at a time
_WHOLE = 256  # blocks: of larger files so many are hashed, evenly spread


@dataclasses.dataclass(frozen=True)
class Fields:
  """Which fields of a record are read; `prompt` may be empty: the record is all text.

  Where `text` holds a list of messages, the record is that conversation.
  """

  text: str = "text"
  prompt: str = ""

  def document(self, record: Any) -> Document:
    """The record's document; RecordError if a field is missing or not text."""
    if isinstance(record, Mapping) and isinstance(record.get(self.text), list):
      return Document(messages=read_conversation(record, self.text))
    return Document(
      text=self._get(record, self.text),
      prompt=self._get(record, self.prompt) if self.prompt else "",
    )

  def _get(self, record: Any, name: str) -> str:
    if not isinstance(record, Mapping):
      raise RecordError("is not a record with fields.")
    value = record.get(name)
    if not isinstance(value, str):
      raise RecordError(f"has no text in field {name!r} {advice(record)}")
    return whole_text(value)


TEXT = Fields()


def advice(record: Iterable[Any]) -> str:
  """What to say behind a missing field: which there are, and which may be meant."""
  names = [str(name) for name in record]
  told = f"(fields: {', '.join(names)});"
  talks = [name for name in names if is_talk(name)]
  if talks:
    return f"{told} set data.text_field to {talks[0]} to learn the answers of its conversations."
  return f"{told} set data.text_field or data.prompt_field."


def is_talk(name: str) -> bool:
  """Whether a field of this name is a list of messages, as a rule."""
  return name.lower() in _TALKS


class TextSource:
  """Text files, a document each."""

  def __init__(self, files: list[Path]):
    self._files = files

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> Document:
    try:
      text = decode_text(self._files[int(index)].read_bytes())
    except UnicodeDecodeError as error:
      raise RecordError(f"is not UTF-8 text ({error}).") from error
    except OSError as error:
      raise RecordError(f"cannot be read ({error.strerror}).") from error
    return Document(text.replace("\r\n", "\n").replace("\r", "\n"))

  def where(self, index: int) -> str:
    """Where a document lies."""
    return str(self._files[int(index)])


class JsonSource:
  """JSON records, a document each: lines, which are found by their offsets, or an array's items.

  Blank lines are passed over. A file that is one array, or has a byte-order mark, is kept whole.
  """

  def __init__(self, files: list[Path], fields: Fields = TEXT):
    self._fields = fields
    self._places: list[tuple[Path, int, int, int]] = []  # file, number, offset or -1, bytes
    self._kept: dict[tuple[Path, int], Any] = {}  # records and lines of files kept whole
    for file in files:
      with open(file, "rb") as lines:
        begin = lines.read(_BLOCK)
      check_lines(file, begin)
      if marked(begin) or begin.lstrip()[:1] == b"[":
        self._keep(file)
      else:
        self._index(file)

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> Document:
    return self._fields.document(self.record(index))

  def record(self, index: int) -> Any:
    """What a line or an array's item holds, whatever its fields are."""
    file, number, offset, size = self._places[int(index)]
    if offset < 0:
      record = self._kept[file, number]
      return parse(record) if isinstance(record, _Line) else record
    with open(file, "rb") as lines:
      lines.seek(offset)
      return parse(lines.read(size))

  def where(self, index: int) -> str:
    """Where a record lies."""
    file, number, offset, _ = self._places[int(index)]
    array = offset < 0 and not isinstance(self._kept[file, number], _Line)
    return f"{file}, {'record' if array else 'line'} {number}"

  def _index(self, file: Path) -> None:
    """Enters the lines of a file by their offsets."""
    offset = 0
    with open(file, "rb") as lines:
      for number, line in enumerate(lines, start=1):
        if line.strip():
          self._places.append((file, number, offset, len(line)))
        offset += len(line)

  def _keep(self, file: Path) -> None:
    """Enters the items of an array, or the lines of a text with a byte-order mark."""
    try:
      text = decode_text(file.read_bytes())
    except UnicodeDecodeError:
      self._index(file)  # whose lines are then told one by one
      return
    array = parse_array(text)
    lines = [_Line(line) for line in text.split("\n")] if array is None else array
    for number, record in enumerate(lines, start=1):
      if not isinstance(record, _Line) or record.strip():
        self._places.append((file, number, -1, 0))
        self._kept[file, number] = record


class _Line(str):
  """A line that is still to be parsed, which an array's item that is text is not."""


def fingerprint(files: Iterable[Path], root: Path) -> dict[str, Any]:
  """Size and SHA-256 of each file below `root` (its own name, where root is the file).

  Of a file beyond 256 MiB, 256 blocks of a MiB are hashed, the first and the last among them.
  """
  found = {}
  for file in files:
    size, digest = file.stat().st_size, hashlib.sha256()
    blocks = -(-size // _BLOCK)
    places = range(blocks)
    if blocks > _WHOLE:
      places = [i * (blocks - 1) // (_WHOLE - 1) for i in range(_WHOLE)]  # type: ignore[assignment]
    with open(file, "rb") as content:
      for place in places:
        content.seek(place * _BLOCK)
        digest.update(content.read(_BLOCK))
    name = file.name if file == root else file.relative_to(root).as_posix()
    found[name] = {"bytes": size, "sha256": digest.hexdigest()}
  return found
