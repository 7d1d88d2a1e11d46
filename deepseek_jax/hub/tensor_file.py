"""One file of the safetensors format: eight bytes of length, a JSON header, the tensors' bytes.

Read here rather than by the library because everything the header says is checked before a byte
of a tensor is used, and tensors are views of the mapped file, without a copy; written here because
a file is written and hashed tensor by tensor, so that no more than one is held.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.tokenizer_files import refuse_pointer
from deepseek_jax.hub.strict_json import parse_object

DTYPES = {
  "F32": np.dtype(np.float32),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F16": np.dtype(np.float16),
  "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Bits of the exponent; where all are set a number is infinite or none. FP8 has no infinity, and
# only where the mantissa is full as well it is no number.
_SPECIAL = {
  "F32": (np.uint32, 0x7F800000),
  "BF16": (np.uint16, 0x7F80),
  "F16": (np.uint16, 0x7C00),
  "F8_E4M3": (np.uint8, 0x7F),
}
_LONGEST_HEADER = 100_000_000  # bytes, as the library has it
_CHUNK = 1 << 24  # elements looked at together


@dataclasses.dataclass(frozen=True)
class Entry:
  """A tensor in a file."""

  path: pathlib.Path
  name: str
  kind: str  # a key of DTYPES
  shape: tuple[int, ...]
  start: int  # of its bytes in the file

  @property
  def nbytes(self) -> int:
    """The tensor's bytes."""
    return math.prod(self.shape) * DTYPES[self.kind].itemsize

  def read(self) -> np.ndarray:
    """The tensor as a view of the mapped file; ConfigError if it holds what is no finite number."""
    dtype = DTYPES[self.kind]
    if self.nbytes == 0:
      return np.empty(self.shape, dtype)
    try:
      mapped = np.memmap(self.path, np.uint8, "r", self.start, (self.nbytes,))
    except (OSError, ValueError) as error:
      raise ConfigError(f"{self.path} cannot be read ({error}); fetch it again.") from error
    # Of an address that no tensor type need be aligned to, hence bytes first.
    array = np.asarray(mapped).view(dtype) if self._aligned else self._copied(mapped)
    self._require_finite(array)
    return array.reshape(self.shape)

  @property
  def _aligned(self) -> bool:
    return self.start % DTYPES[self.kind].itemsize == 0

  def _copied(self, mapped: np.ndarray) -> np.ndarray:
    return np.frombuffer(mapped.tobytes(), DTYPES[self.kind])

  def _require_finite(self, array: np.ndarray) -> None:
    require(
      all_finite(array),
      f"tensor {self.name!r} in {self.path} holds a value that is not a finite number; "
      "fetch the file again.",
    )


def all_finite(array: np.ndarray) -> bool:
  """Whether a contiguous array of one of DTYPES holds finite numbers only."""
  unsigned, mask = _SPECIAL[_NAMES[array.dtype]]
  bits = array.reshape(-1).view(unsigned)
  return not any(
    np.any(bits[i : i + _CHUNK] & unsigned(mask) == mask) for i in range(0, bits.size, _CHUNK)
  )


def read_header(path: pathlib.Path) -> dict[str, Entry]:
  """The tensors of a file by name; ConfigError unless they fill the file exactly, one by one."""
  refuse_pointer(path)
  try:
    size = path.stat().st_size
    with open(path, "rb") as file:
      length = int.from_bytes(file.read(8), "little")
      fits = 8 + length <= size and length <= _LONGEST_HEADER
      header = file.read(length) if fits else b""
  except OSError as error:
    raise ConfigError(f"{path} cannot be read ({error.strerror}); fetch it again.") from error
  require(
    size >= 8 and fits, f"{path} is no whole safetensors file: its header runs beyond its end."
  )
  fields = parse_object(header, f"the header of {path}")
  _check_metadata(path, fields.pop("__metadata__", {}))
  at, entries = 0, {}
  for name, (begin, end, field) in sorted(_ranges(path, fields), key=lambda item: item[1][:2]):
    entry = _entry(path, name, field, 8 + length + begin)
    require(
      begin == at and end == at + entry.nbytes,
      f"tensor {name!r} in {path} lies at bytes {begin} to {end}; its dtype, shape and "
      f"neighbours make it {at} to {at + entry.nbytes}; fetch the file again.",
    )
    at, entries[name] = end, entry
  left = size - 8 - length
  require(
    at == left, f"{path} has {left} bytes of tensors where its header says {at}; fetch it again."
  )
  return entries


def _check_metadata(path: pathlib.Path, metadata: Any) -> None:
  text = isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
  require(text, f"the header of {path} has a __metadata__ that is no object of texts.")


def _ranges(
  path: pathlib.Path, fields: Mapping[str, Any]
) -> Iterable[tuple[str, tuple[int, int, dict[str, Any]]]]:
  """Each tensor's bytes in the data section, and its field of the header."""
  for name, field in fields.items():
    right = isinstance(field, dict) and set(field) == {"dtype", "shape", "data_offsets"}
    require(right, f"the header of {path} describes tensor {name!r} by {field!r}.")
    offsets = field["data_offsets"]
    require(
      _naturals(offsets) and len(offsets) == 2,
      f"the header of {path} has data_offsets {offsets!r} for tensor {name!r}.",
    )
    yield name, (*offsets, field)


def _entry(path: pathlib.Path, name: str, field: Mapping[str, Any], start: int) -> Entry:
  kind, shape = field["dtype"], field["shape"]
  require(
    isinstance(kind, str) and kind in DTYPES,
    f"tensor {name!r} in {path} has dtype {kind}; use {', '.join(DTYPES)}.",
  )
  require(
    _naturals(shape), f"the header of {path} gives tensor {name!r} the shape {str(shape)[:80]}."
  )
  return Entry(path, name, kind, tuple(shape), start)


def _naturals(value: Any) -> bool:
  """Whether `value` is a list of integers from 0."""
  return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


@dataclasses.dataclass(frozen=True)
class Planned:
  """A tensor to be written."""

  name: str
  dtype: np.dtype
  shape: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    """The tensor's bytes."""
    return math.prod(self.shape) * self.dtype.itemsize


def in_file_order(tensors: Iterable[Planned]) -> list[Planned]:
  """Wide dtypes first, so that every tensor is aligned to its own."""
  return sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)


def write_file(path: pathlib.Path, tensors: Sequence[Planned], arrays: Iterable[np.ndarray]) -> str:
  """Writes the tensors, whose arrays come one by one in their order; returns the file's SHA-256."""
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  at = 0
  for tensor in tensors:
    header[tensor.name] = {
      "dtype": _NAMES[tensor.dtype],
      "shape": list(tensor.shape),
      "data_offsets": [at, at + tensor.nbytes],
    }
    at += tensor.nbytes
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  digest = hashlib.sha256()
  with open(path, "xb") as file:
    for data in (len(text).to_bytes(8, "little"), text):
      file.write(data)
      digest.update(data)
    for tensor, array in zip(tensors, arrays, strict=True):
      assert array.dtype == tensor.dtype and array.shape == tensor.shape, tensor
      view = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
      file.write(view)
      digest.update(view)
    file.flush()
    os.fsync(file.fileno())
  return digest.hexdigest()
