"""Tiles that a device was measured to be fastest with: a JSON file per device, if it was tuned.

`python -m pallas_kernels.bench --tune` writes them and is all that should. A kernel that is called
without tiles asks `tiles`, which knows the device that is traced for; without an entry for its
shape's class the kernel's default stands. A class has axes that vary from call to call (tokens,
rows, slots) rounded up to a power of two and all others as they are.

  {"device": "h100", "jax": "0.11.2",
   "tiles": {"gemm.matmul": {"M<=4096 N=4096 K=7168": {"rows": 64, "columns": 128, ...}}}}
"""

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from pallas_kernels import compat

FOLDER = Path(__file__).parent
OPERATIONS = (
  "gemm.matmul",
  "gemm.weight_gradient",
  "grouped.m_grouped",
  "grouped.k_grouped",
  "mla.decode",
)
_NAMES = {
  "NVIDIA H100 80GB HBM3": "h100",
  "NVIDIA H200": "h200",
  "TPU v5 lite": "v5e",
  "TPU v5e": "v5e",
  "TPU v5": "v5p",
  "TPU v5p": "v5p",
  "TPU v6 lite": "v6e",
  "TPU v6e": "v6e",
  "TPU7x": "tpu7x",
}
_FIELDS = {"device", "jax", "tiles"}
_SHAPE = re.compile(r"[A-Z](<=|=)[1-9]\d*( [A-Z](<=|=)[1-9]\d*)*")

Tiles = TypeVar("Tiles")  # the frozen dataclass of a kernel's tiles
Fields = dict[str, Any]
Entries = dict[str, dict[str, Fields]]  # fields of tiles by operation and shape class


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a kernel without explicit tiles asked for, as `asked` records it."""

  operation: str
  shape: str
  default: Any


_asked: list[Asked] | None = None
_tried: dict[tuple[str, str], Any] = {}


def tiles(
  operation: str, default: Tiles, *, up_to: Mapping[str, int], exact: Mapping[str, int]
) -> Tiles:
  """The tiles of an operation on the device that is traced for, or the default.

  Args:
    operation: one of `OPERATIONS`.
    default: a frozen dataclass, whose fields are the only ones a file may name.
    up_to: sizes of the axes that vary, by their letter.
    exact: sizes of all others.

  Raises:
    ValueError: the device's file is not as it must be; names the file and the field.
  """
  shape = shape_class(up_to, exact)
  if _asked is not None:
    _asked.append(Asked(operation, shape, default))
  if (operation, shape) in _tried:
    return _tried[operation, shape]
  path = FOLDER / f"{device_name(compat.device_kind())}.json"
  return _tiles_of(path, operation, default).get(shape, default)


def shape_class(up_to: Mapping[str, int], exact: Mapping[str, int]) -> str:
  """For example "M<=4096 N=2112 K=7168" of M = 2500."""
  bounds = [f"{axis}<={1 << (size - 1).bit_length()}" for axis, size in up_to.items()]
  return " ".join(bounds + [f"{axis}={size}" for axis, size in exact.items()])


def device_name(kind: str) -> str:
  """The name of a device's file: h100, h200, v5e, v5p, v6e, tpu7x, else its kind in kebab case.

  Cards of one chip that differ in cores or memory, as H100 PCIe does, keep names of their own.
  """
  return _NAMES.get(kind) or re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")


def check_fields(tiles: Any, **steps: int) -> None:
  """Raises ValueError where a field of some tiles is no positive multiple of its step."""
  for field, step in steps.items():
    value = getattr(tiles, field)
    if type(value) is not int or value <= 0 or value % step:
      raise ValueError(f"{field} is {value!r}, not a positive multiple of {step}.")


@contextlib.contextmanager
def asked() -> Iterator[list[Asked]]:
  """Collects what kernels ask for while they are traced within it."""
  global _asked
  before, _asked = _asked, []
  try:
    yield _asked
  finally:
    _asked = before


@contextlib.contextmanager
def trying(question: Asked, answer: Any) -> Iterator[None]:
  """Kernels traced within it get these tiles where they ask that question."""
  key = question.operation, question.shape
  _tried[key] = answer
  try:
    yield
  finally:
    del _tried[key]


def write(device: str, found: Mapping[Asked, Any], folder: Path | None = None) -> Path:
  """Adds tiles to a device's file, in place of what it has for the same questions."""
  path = (folder or FOLDER) / f"{device}.json"
  entries = {operation: dict(shapes) for operation, shapes in read(path).items()}
  for question, answer in found.items():
    fields = {name: value for name, value in vars(answer).items() if value is not None}
    entries.setdefault(question.operation, {})[question.shape] = fields
  file = {"device": device, "jax": jax.__version__, "tiles": entries}
  path.write_text(json.dumps(file, indent=2) + "\n", encoding="utf-8")
  read.cache_clear()
  _tiles_of.cache_clear()
  return path


@functools.cache
def read(path: Path) -> Entries:
  """A device's entries, {} where it has no file.

  Raises:
    ValueError: names the file and what in it is wrong.
  """
  if not path.exists():
    return {}
  try:
    file = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{path} is not JSON: {error}") from error
  _require(isinstance(file, dict) and set(file) == _FIELDS, path, f"needs {sorted(_FIELDS)}")
  _require(file["device"] == path.stem, path, f"device is {file['device']!r}, not {path.stem!r}")
  _require(isinstance(file["jax"], str), path, f"jax is {file['jax']!r}, not a version")
  _require(isinstance(file["tiles"], dict), path, "tiles is not an object")
  for operation, shapes in file["tiles"].items():
    _require(operation in OPERATIONS, path, f"{operation!r} is none of {', '.join(OPERATIONS)}")
    _require(isinstance(shapes, dict), path, f"{operation} is not an object")
    for shape, fields in shapes.items():
      where = f"{operation}, {shape!r}"
      _require(bool(_SHAPE.fullmatch(shape)), path, f"{where} is not the class of a shape")
      _require(isinstance(fields, dict), path, f"{where} is not an object")
  return file["tiles"]


@functools.cache
def _tiles_of(path: Path, operation: str, default: Any) -> dict[str, Any]:
  """An operation's tiles by the class of the shape; fields that a file leaves out are default."""
  known = [field.name for field in dataclasses.fields(default)]
  found = {}
  for shape, fields in read(path).get(operation, {}).items():
    where = f"{operation}, {shape!r}"
    for name in fields:
      _require(name in known, path, f"{where}: {name!r} is no field; they are {', '.join(known)}")
    try:
      found[shape] = dataclasses.replace(default, **fields)
    except (TypeError, ValueError) as error:
      raise ValueError(f"{path}: {where}: {error}") from error
  return found


def _require(condition: bool, path: Path, problem: str) -> None:
  if not condition:
    raise ValueError(f"{path}: {problem}.")
