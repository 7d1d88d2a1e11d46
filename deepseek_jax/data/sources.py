"""Corpora of text files and JSON lines; each is a `grain.sources.RandomAccessDataSource`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.document import Document


@dataclasses.dataclass(frozen=True)
class Fields:
  """Which fields of a record are read; `prompt` may be empty: the record is all text."""

  text: str = "text"
  prompt: str = ""

  def document(self, record: Mapping[str, Any], where: str) -> Document:
    """The record's document; ConfigError names `where` if a field is missing or not text."""
    return Document(
      text=self._get(record, self.text, where),
      prompt=self._get(record, self.prompt, where) if self.prompt else "",
    )

  def _get(self, record: Mapping[str, Any], name: str, where: str) -> str:
    require(isinstance(record, Mapping), f"{where} is not a record with fields.")
    value = record.get(name)
    require(
      isinstance(value, str),
      f"{where} has no text in field {name!r} (fields: {', '.join(map(str, record))}); "
      "set data.text_field or data.prompt_field.",
    )
    return str(value)


TEXT = Fields()


class TextSource:
  """Text files, a document each: one file, or all files of a directory with these endings."""

  def __init__(self, path: str | Path, endings: tuple[str, ...] = (".txt", ".md")):
    self._files = find_files(path, endings)

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> Document:
    path = self._files[int(index)]
    try:
      return Document(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
      raise ConfigError(f"{path} is not UTF-8 text ({error}).") from error


class JsonlSource:
  """JSON lines, a document each, found by their offsets; blank lines are passed over."""

  def __init__(self, path: str | Path, fields: Fields = TEXT, split: str = ""):
    self._fields = fields
    self._places: list[tuple[Path, int, int, int]] = []  # file, line number, offset, bytes
    for file in find_files(path, (".jsonl",), split):
      offset = 0
      with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
          if line.strip():
            self._places.append((file, number, offset, len(line)))
          offset += len(line)

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> Document:
    file, number, offset, size = self._places[int(index)]
    with open(file, "rb") as lines:
      lines.seek(offset)
      raw = lines.read(size)
    try:
      record = json.loads(raw)
    except ValueError as error:
      raise ConfigError(f"{file}, line {number}, is not valid JSON ({error}).") from error
    return self._fields.document(record, f"{file}, line {number},")


def find_files(path: str | Path, endings: tuple[str, ...], split: str = "") -> list[Path]:
  """The file itself, or the files below a directory with one of the endings, in a fixed order.

  Args:
    path: a file, taken whatever its ending, or a directory. Hidden files are passed over.
    endings: such as `.txt`.
    split: of a directory that names splits in its files or folders (train, test, validation)
      only those of this name; one without such names is taken whole.

  Raises:
    ConfigError: there is no such path or no such file below it.
  """
  root = Path(path)
  require(root.exists(), f"data.path {str(path)!r} does not exist.")
  if root.is_file():
    return [root]
  found = sorted(
    file
    for file in root.rglob("*")
    if file.suffix in endings
    and file.is_file()
    and not any(part.startswith(".") for part in file.relative_to(root).parts)
  )
  require(bool(found), f"data.path {str(path)!r} holds no {' or '.join(endings)} files.")
  named = {file: split_named(file.relative_to(root)) for file in found}
  if not split or not any(named.values()):
    return found
  chosen = [file for file in found if named[file] == split]
  require(bool(chosen), f"data.path {str(path)!r} holds no files of the split {split!r}.")
  return chosen


def split_named(path: Path) -> str:
  """The split that a relative path names in a part of itself, or an empty string."""
  for part in path.parts:
    word = part.split(".")[0].split("-")[0].lower()
    if word in ("train", "test", "validation", "valid", "dev", "eval"):
      return word
  return ""
