"""The tensors of a checkpoint, held against those that its architecture needs."""

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

import ml_dtypes
import numpy as np

from deepseek_jax.config import ModelConfig, require
from deepseek_jax.hub import names
from deepseek_jax.hub.blocks import SUFFIX, Shapes, scale_shape
from deepseek_jax.hub.tensor_file import Entry
from deepseek_jax.ops.fp8 import E4M3, E4M3_MAX

FP8 = "F8_E4M3"
_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")  # buffers in old Llama checkpoints
_CHUNK = 1 << 22  # elements compared together
_COMPARED = 2000  # names


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tensor of the architecture and where it lies; `scale` is that of an FP8 one."""

  tensor: names.Tensor
  entry: Entry
  scale: Entry | None

  def read_scale(self) -> np.ndarray:
    """The scales of an FP8 tensor, with which all its values are finite."""
    assert self.scale is not None
    scale = self.scale.read()
    with np.errstate(over="ignore"):
      largest = np.float32(E4M3_MAX) * np.abs(scale)
    require(
      bool(np.all(np.isfinite(largest))),
      f"tensor {self.scale.name!r} holds a scale too large for float32; fetch the file again.",
    )
    return scale


def match(
  config: ModelConfig, entries: Mapping[str, Entry], shapes: Shapes, folder: pathlib.Path
) -> list[Stored]:
  """Every tensor of the architecture that the files of a folder hold, in the order of the files.

  Raises:
    ConfigError: a tensor is missing, surplus, of another shape or of a dtype that is not read.
  """
  table = {tensor.name: tensor for tensor in names.tensors(config)}
  for name, tensor in table.items():
    require(name in entries or tensor.copy, _missing(name, entries, folder))
  stored: list[Stored] = []
  halves: dict[str, str] = {}  # the first tensor of either kind
  for name, entry in entries.items():
    if name.endswith(SUFFIX):
      _require_scaled(name, entries)
      continue
    if name not in table and _IGNORED.fullmatch(name):
      continue
    require(
      name in table,
      f"{folder} has a tensor {name!r}, which config.json does not account for.",
    )
    tensor = table[name]
    _require_shape(entry, tensor.shape(shapes))
    stored.append(Stored(tensor, entry, _scale(tensor, entry, entries, shapes)))
    if entry.kind in ("BF16", "F16"):
      halves.setdefault(entry.kind, name)
  require(len(halves) < 2, f"tensors {' and '.join(halves.values())} are BF16 and F16; use one.")
  return stored


def _missing(name: str, entries: Mapping[str, Entry], folder: pathlib.Path) -> str:
  """That a tensor is missing, and what is there under another name."""
  longer = next((other for other in entries if other.endswith(f".{name}")), None)
  if longer is None:
    like = difflib.get_close_matches(name, [*entries][:_COMPARED], 1, 0.0)
    return f"{folder} has no tensor {name!r}; {like[0]!r} is the nearest that it has."
  prefix = longer.removesuffix(name)
  return f"{folder} has no tensor {name!r} but {longer!r}; take {prefix!r} off the tensors' names."


def _require_scaled(name: str, entries: Mapping[str, Entry]) -> None:
  base = name.removesuffix(SUFFIX)
  right = base in entries and entries[base].kind == FP8
  require(right, f"tensor {name!r} holds scales, but there is no FP8 tensor {base!r}.")


def _require_shape(entry: Entry, shape: Sequence[int]) -> None:
  require(
    entry.shape == tuple(shape),
    f"tensor {entry.name!r} has shape {list(entry.shape)}; config.json makes it {list(shape)}.",
  )


def _scale(
  tensor: names.Tensor, entry: Entry, entries: Mapping[str, Entry], shapes: Shapes
) -> Entry | None:
  """The scales of an FP8 tensor, None for any other."""
  if entry.kind != FP8:
    return None
  require(
    tensor.blocks, f"tensor {entry.name!r} is FP8; DeepSeek's projections and experts may be."
  )
  scale = entries.get(entry.name + SUFFIX)
  require(scale is not None, f"tensor {entry.name!r} is FP8, but has no {entry.name + SUFFIX!r}.")
  assert scale is not None
  require(scale.kind == "F32", f"tensor {scale.name!r} has dtype {scale.kind}; scales are F32.")
  _require_shape(scale, scale_shape(tensor, shapes))
  return scale


def leaf_dtypes(stored: Iterable[Stored], widen: bool) -> dict[names.Path, np.dtype]:
  """The dtype of each of our leaves that the checkpoint fills.

  FP8 stays FP8. Bfloat16 stays itself unless `widen`, if all of the leaf is. The rest is float32.

  Raises:
    ConfigError: a leaf would be FP8 in one layer or expert and not in another.
  """
  kinds: dict[names.Path, set[str]] = {}
  for item in stored:
    for piece in item.tensor.pieces:
      seen = kinds.setdefault(piece.path, set())
      seen.add(item.entry.kind)
      require(
        FP8 not in seen or len(seen) == 1,
        f"tensor {item.entry.name!r} is {item.entry.kind}, but in other layers or experts it is "
        f"{' or '.join(seen - {item.entry.kind})}; FP8 must be all of them or none.",
      )
  found = {}
  for path, seen in kinds.items():
    half = seen == {"BF16"} and not widen and path[0] == "params"
    found[path] = E4M3 if FP8 in seen else np.dtype(ml_dtypes.bfloat16 if half else np.float32)
  return found


def require_copies(stored: Iterable[Stored]) -> None:
  """Refuses a checkpoint whose further copies of embedding and head differ from them."""
  stored = list(stored)
  owners = {item.tensor.pieces: item.entry for item in stored if not item.tensor.copy}
  for item in stored:
    if item.tensor.copy:
      require(
        _same(item.entry, owners[item.tensor.pieces]),
        f"tensor {item.entry.name!r} differs from the one it should be a copy of.",
      )


def _same(a: Entry, b: Entry) -> bool:
  """Whether two tensors hold the same numbers, in whatever dtypes."""
  x, y = a.read().reshape(-1), b.read().reshape(-1)
  return all(
    np.array_equal(x[i : i + _CHUNK].astype(np.float32), y[i : i + _CHUNK].astype(np.float32))
    for i in range(0, x.size, _CHUNK)
  )
