"""Where the 128 x 128 blocks of an FP8 tensor lie in our leaves, and their scales both ways.

A leaf holds the scales of its own rows and columns, so that it stands alone: cut out of a stack,
placed on a mesh, computed with. Along a checkpoint axis whose parts (the pieces joined there, the
heads) all begin at the edge of a block, it keeps one scale per block; along any other a scale per
element, as for V3's q_b_proj, whose heads of 128 + 64 rows do not. Either way the tensor's own
scales are what the leaf holds, and come back exactly.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.hub.names import Path, Tensor
from deepseek_jax.ops.fp8 import BLOCK, blocks

SUFFIX = "_scale_inv"  # after the name of an FP8 tensor: its scales, which are multiplied by
Shapes = Mapping[Path, tuple[int, ...]]


def scale_shape(tensor: Tensor, shapes: Shapes) -> tuple[int, int]:
  """The shape of a tensor's scales in a checkpoint, given the shapes of our leaves."""
  rows, columns = tensor.shape(shapes)
  return blocks(rows), blocks(columns)


def scale_parts(tensor: Tensor, scale: np.ndarray, shapes: Shapes) -> list[np.ndarray]:
  """The scales that each piece holds, its axes in our order."""
  parts = []
  for piece, (rows, columns) in zip(tensor.pieces, _places(tensor, shapes), strict=True):
    flat = scale[np.ix_(rows.reshape(-1), columns.reshape(-1))]
    parts.append(flat.reshape(rows.shape + columns.shape).transpose(np.argsort(piece.order)))
  return parts


def whole_scale(tensor: Tensor, parts: Sequence[np.ndarray], shapes: Shapes) -> np.ndarray:
  """The inverse of `scale_parts`; ConfigError where parts disagree about the scale of a block."""
  scale = np.zeros(scale_shape(tensor, shapes), np.float32)
  for piece, part, (rows, columns) in zip(
    tensor.pieces, parts, _places(tensor, shapes), strict=True
  ):
    flat = part.transpose(piece.order).reshape(rows.size, columns.size)
    scale[np.ix_(rows.reshape(-1), columns.reshape(-1))] = flat
  again = scale_parts(tensor, scale, shapes)
  require(
    all(map(np.array_equal, again, parts)),
    f"the leaves of tensor {tensor.name!r} hold different scales for one of its blocks; "
    "dequantize the weights before exporting them as FP8.",
  )
  return scale


def leaf_scale_shapes(tensor: Tensor, shapes: Shapes) -> list[tuple[int, ...]]:
  """The shape of each piece's leaf of scales, with its stacked axes."""
  found = []
  for piece, (rows, columns) in zip(tensor.pieces, _places(tensor, shapes), strict=True):
    part = rows.shape + columns.shape
    stacked = shapes[piece.path][: len(piece.index)]
    found.append((*stacked, *(part[i] for i in np.argsort(piece.order))))
  return found


def _places(tensor: Tensor, shapes: Shapes) -> list[tuple[np.ndarray, np.ndarray]]:
  """For each piece the block row, and the block column, of every scale it holds."""
  outer = tensor.join + 1  # axes that make the rows
  sizes = [piece.shape(shapes) for piece in tensor.pieces]
  widths = [size[outer - 1] for size in sizes]
  offsets = [sum(widths[:i]) for i in range(len(widths))]
  heads = sizes[0][: outer - 1]
  aligned = all(offset % BLOCK == 0 for offset in offsets)
  aligned = aligned and (not heads or sum(widths) % BLOCK == 0)
  places = []
  for size, width, offset in zip(sizes, widths, offsets, strict=True):
    rows = _numbers(heads, width, offset, sum(widths), aligned)
    *groups, last = size[outer:]
    columns = _numbers(groups, last, 0, last, not groups or last % BLOCK == 0)
    places.append((rows, columns))
  return places


def _numbers(
  heads: Sequence[int], width: int, offset: int, stride: int, aligned: bool
) -> np.ndarray:
  """The block of every scale along one checkpoint axis, which is `heads` times `stride` long.

  The piece has `width` entries of each stride, from `offset`.
  """
  first = np.arange(math.prod(heads)) * stride + offset
  within = np.arange(0, width, BLOCK if aligned else 1)
  return ((first[:, None] + within) // BLOCK).reshape(*heads, -1)
