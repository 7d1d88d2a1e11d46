"""What stands before the data of a GGUF file: its metadata, and where its tensors lie.

The `gguf` package has a reader too, but it believes the lengths that a file states: a damaged count
sends it looping for hours. Here every length is held against the file before anything is read.
Format: the GGUF specification, versions 2 and 3, little-endian.
"""

import dataclasses
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError, require

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {
  0: "B",
  1: "b",
  2: "H",
  3: "h",
  4: "I",
  5: "i",
  6: "f",
  7: "?",
  10: "Q",
  11: "q",
  12: "d",
}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32  # where general.alignment does not say otherwise
_MOST_AXES = 4


@dataclasses.dataclass(frozen=True)
class TensorEntry:
  """A tensor of the file, not yet read."""

  kind: Any  # gguf.GGMLQuantizationType
  shape: tuple[int, ...]  # rows first, unlike in the file
  start: int  # of its bytes in the file
  size: int  # in bytes


@dataclasses.dataclass(frozen=True)
class Header:
  """The metadata by its keys and the tensors by their names."""

  path: Path
  metadata: dict[str, Any]
  tensors: dict[str, TensorEntry]

  def get(self, key: str, kind: type, default: Any = None) -> Any:
    """A value of the metadata, or its default; ConfigError where it is missing or no `kind`."""
    value = self.metadata.get(key, default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
      value = float(value)
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    found = "lacks it" if value is None else f"has {str(value)[:40]!r}"
    require(right, f"{self.path} must have {key} as {kind.__name__} in its metadata; it {found}.")
    return value


def read_header(path: str | os.PathLike[str]) -> Header:
  """The header of a GGUF file, all of whose tensors lie within the file, one after another.

  Raises:
    ConfigError: the `gguf` package is missing, or the file is not such a one.
  """
  try:
    import gguf  # noqa: F401
  except ImportError as error:
    raise ConfigError(
      f"{path} needs the package gguf; pip install 'deepseek-jax[gguf]'."
    ) from error
  try:
    with open(path, "rb") as file:
      size = os.fstat(file.fileno()).st_size
      data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    return _Reader(Path(path), memoryview(data)).header()
  except (OSError, struct.error, UnicodeDecodeError, _DamageError) as error:
    reason = "it ends too early" if isinstance(error, struct.error) else error
    raise ConfigError(
      f"{path} is not a readable GGUF file: {reason}; download it again."
    ) from error


class _DamageError(Exception):
  """Why a file cannot be a GGUF file."""


def _check(holds: bool, reason: str) -> None:
  if not holds:
    raise _DamageError(reason)


class _Reader:
  """Reads a header from the front; `at` is where it has come to."""

  def __init__(self, path: Path, data: memoryview):
    self.path, self.data, self.at = path, data, 0

  def header(self) -> Header:
    _check(bytes(self.data[:4]) == MAGIC, "it does not begin with GGUF")
    self.at = 4
    version = self.number("I")
    _check(version in _VERSIONS, f"its version is {version}, not 2 or 3")
    count, keys = self.number("Q"), self.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
      key = self.text()
      _check(key not in metadata, f"its metadata has {key!r} twice")
      metadata[key] = self.value(self.number("I"))
    raw: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(count):
      name = self.text()
      _check(name not in raw, f"it has tensor {name!r} twice")
      axes = self.number("I")
      _check(0 < axes <= _MOST_AXES, f"tensor {name!r} has {axes} axes")
      shape = tuple(self.number("Q") for _ in range(axes))
      raw[name] = shape[::-1], self.number("I"), self.number("Q")
    return Header(self.path, metadata, self.entries(raw, metadata))

  def number(self, code: str) -> Any:
    """One number of a struct format."""
    value = struct.unpack_from(f"<{code}", self.data, self.at)[0]
    self.at += struct.calcsize(code)
    return value

  def text(self) -> str:
    """A length and so many bytes of UTF-8."""
    length = self.number("Q")
    _check(length <= len(self.data) - self.at, "a text in it is longer than the file")
    self.at += length
    return bytes(self.data[self.at - length : self.at]).decode("utf-8")

  def value(self, kind: int) -> Any:
    """A value of the metadata: a number, a truth, a text, or a list of one of these."""
    if kind == _STRING:
      return self.text()
    if kind != _ARRAY:
      _check(kind in _SCALARS, f"its metadata has a value of unknown type {kind}")
      return self.number(_SCALARS[kind])
    item, count = self.number("I"), self.number("Q")
    _check(item == _STRING or item in _SCALARS, f"its metadata has a list of unknown type {item}")
    width = 8 if item == _STRING else struct.calcsize(_SCALARS[item])
    _check(count * width <= len(self.data) - self.at, "a list in it is longer than the file")
    if item == _STRING:
      return [self.text() for _ in range(count)]
    values = struct.unpack_from(f"<{count}{_SCALARS[item]}", self.data, self.at)
    self.at += count * width
    return list(values)

  def entries(
    self, raw: dict[str, tuple[tuple[int, ...], int, int]], metadata: dict[str, Any]
  ) -> dict[str, TensorEntry]:
    """Where each tensor lies; they follow one another, each on the alignment, as in llama.cpp."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    step = metadata.get("general.alignment", _ALIGNMENT)
    _check(isinstance(step, int) and step > 0 and step & (step - 1) == 0, "its alignment is odd")
    found = {}
    start = expected = -(-self.at // step) * step
    for name, (shape, number, offset) in raw.items():
      known = number in GGMLQuantizationType._value2member_map_
      _check(known, f"tensor {name!r} is of unknown type {number}")
      kind = GGMLQuantizationType(number)
      block, width = GGML_QUANT_SIZES[kind]
      _check(shape[-1] % block == 0, f"rows of tensor {name!r} are no whole blocks of {block}")
      size = math.prod(shape) // block * width
      _check(start + offset == expected, f"tensor {name!r} lies elsewhere than after the last")
      _check(expected + size <= len(self.data), f"it ends within tensor {name!r}")
      found[name] = TensorEntry(kind, shape, expected, size)
      expected += -(-size // step) * step
    return found
