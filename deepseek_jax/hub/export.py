"""The tensors of a checkpoint, made one by one from weights as they are held."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from deepseek_jax.config import ModelConfig, require
from deepseek_jax.hub import names
from deepseek_jax.hub.blocks import SUFFIX, Shapes, scale_shape, whole_scale
from deepseek_jax.hub.tensor_file import Planned, all_finite
from deepseek_jax.ops.fp8 import E4M3, FP8Blocks, dequantize_matrix, quantize_matrix
from deepseek_jax.types import Weights

_F32, _BF16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
# What a checkpoint of this name stores where nothing else is prescribed.
FORMATS = {"float32": _F32, "bfloat16": _BF16, "fp8": _BF16}

Leaves = dict[names.Path, Any]  # arrays and FP8Blocks


@dataclasses.dataclass(frozen=True)
class Output:
  """A tensor to be written and how to make it, which takes memory for it alone."""

  planned: Planned
  make: Callable[[], np.ndarray]


def outputs(config: ModelConfig, weights: Weights, dtype: str) -> list[Output]:
  """All tensors of a checkpoint in one of FORMATS, in the order of the layers."""
  leaves = names.flatten(weights)
  shapes = {path: leaf.shape for path, leaf in leaves.items()}
  return [
    output
    for tensor in names.tensors(config)
    if tensor.written
    for output in _outputs(tensor, leaves, shapes, dtype)
  ]


def shards(written: Sequence[Output], limit: float) -> list[list[Output]]:
  """The tensors in order, in runs of at most `limit` bytes (or one tensor)."""
  runs: list[list[Output]] = [[]]
  held = 0
  for output in written:
    if runs[-1] and held + output.planned.nbytes > limit:
      runs.append([])
      held = 0
    runs[-1].append(output)
    held += output.planned.nbytes
  return runs


def _outputs(tensor: names.Tensor, leaves: Leaves, shapes: Shapes, dtype: str) -> Iterator[Output]:
  """The tensor, or its FP8 values and scales."""
  name, shape = tensor.name, tensor.shape(shapes)
  if dtype == "fp8" and tensor.blocks:
    plans = (
      Planned(name, E4M3, shape),
      Planned(name + SUFFIX, _F32, scale_shape(tensor, shapes)),
    )
    for which, plan in enumerate(plans):
      yield Output(plan, functools.partial(_fp8, tensor, leaves, shapes, which))
    return
  planned = Planned(name, _F32 if tensor.float32 else FORMATS[dtype], shape)
  yield Output(planned, lambda: _finite(name, _matrix(tensor, leaves, shapes, planned.dtype)))


def _fp8(tensor: names.Tensor, leaves: Leaves, shapes: Shapes, which: int) -> np.ndarray:
  """The FP8 values (`which` 0) or scales (1) of a tensor: as held, or quantised."""
  if all(isinstance(leaves[piece.path], FP8Blocks) for piece in tensor.pieces):
    if which == 0:
      return _finite(tensor.name, tensor.whole(_held(tensor, leaves, "values")))
    return _finite(tensor.name, whole_scale(tensor, _held(tensor, leaves, "scale"), shapes))
  matrix = _finite(tensor.name, _matrix(tensor, leaves, shapes, _F32))
  return quantize_matrix(matrix)[which]


def _matrix(tensor: names.Tensor, leaves: Leaves, shapes: Shapes, dtype: np.dtype) -> np.ndarray:
  """The tensor in float32 or bfloat16, dequantised where it is held in FP8."""
  fp8 = [isinstance(leaves[piece.path], FP8Blocks) for piece in tensor.pieces]
  if all(fp8):
    values = tensor.whole(_held(tensor, leaves, "values"))
    scale = whole_scale(tensor, _held(tensor, leaves, "scale"), shapes)
    matrix = dequantize_matrix(values, scale)
  else:
    require(not any(fp8), f"only a part of tensor {tensor.name!r} is held in FP8; dequantize it.")
    matrix = tensor.whole(_held(tensor, leaves, ""))
  with np.errstate(over="ignore"):  # what does not fit is refused
    return matrix.astype(dtype, copy=False)


def _held(tensor: names.Tensor, leaves: Leaves, field: str) -> list[np.ndarray]:
  """The part of each piece on the host; `field` is of FP8Blocks."""
  found = []
  for piece in tensor.pieces:
    leaf = leaves[piece.path]
    found.append(_part(getattr(leaf, field) if field else leaf, piece.index))
  return found


def _part(leaf: Any, index: tuple[int, ...]) -> np.ndarray:
  """What lies at `index` of the leading axes; of a leaf on devices only that is fetched."""
  if isinstance(leaf, jax.Array) and not _on_host(leaf):
    leaf, index = _cut(leaf, tuple(np.int32(i) for i in index)), ()
  return np.asarray(leaf)[index]


def _on_host(leaf: jax.Array) -> bool:
  """Whether numpy sees the array without a copy."""
  devices = leaf.devices()
  return len(devices) == 1 and all(device.platform == "cpu" for device in devices)


@jax.jit
def _cut(leaf: jax.Array, index: tuple) -> jax.Array:
  return leaf[index]


def _finite(name: str, array: np.ndarray) -> np.ndarray:
  """`array`, unless it holds what is no finite number."""
  array = np.ascontiguousarray(array)
  require(
    all_finite(array), f"tensor {name!r} holds a value that is not a finite number; not exported."
  )
  return array
