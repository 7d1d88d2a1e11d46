"""FP8 matrices in blocks of 128 x 128 with a scale each, as DeepSeek-V3 publishes its weights
(2412.19437, section 3.3).

A published matrix [out, in] comes with scales [ceil(out / 128), ceil(in / 128)]; blocks at the
ragged edges are those of the matrix padded with zeros. The file calls the scale `weight_scale_inv`,
but it is what the values are multiplied by.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from deepseek_jax.types import Array, Weights

BLOCK = 128
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
E4M3_MAX = 448.0
_VALUES = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32)  # of each code


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FP8Blocks:
  """A parameter kept in FP8. Where a module asks for a dtype, `astype` gives the matrix in it.

  `scale` has the axes of `values`; each has either the full size or one entry for every 128 (the
  last may cover fewer). Which of the two depends on how the leaf lies in its published matrix; see
  `hub.blocks`. Leading axes (stacked layers, experts) have the full size, so that a scan over
  layers slices both arrays alike.
  """

  values: Array  # float8_e4m3fn; first, for Flax compares its shape to the parameter's
  scale: Array  # float32

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the parameter."""
    return self.values.shape

  @property
  def ndim(self) -> int:
    """The number of axes."""
    return self.values.ndim

  @property
  def size(self) -> int:
    """The number of elements."""
    return int(np.prod(self.shape))

  @property
  def nbytes(self) -> int:
    """Bytes of values and scales together."""
    return self.values.nbytes + self.scale.nbytes

  def astype(self, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The parameter dequantised: multiplied in float32, then rounded to `dtype`."""
    values = jnp.asarray(self.values).astype(jnp.float32)
    return (values * _spread(jnp.asarray(self.scale), self.shape)).astype(dtype)


def blocks(size: int) -> int:
  """How many blocks cover an axis."""
  return -(-size // BLOCK)


def dequantize(weights: Weights, dtype: jax.typing.DTypeLike = jnp.float32) -> Weights:
  """`weights` with every FP8 leaf as an array of `dtype`, placed where its values are."""

  def plain(leaf: Array | FP8Blocks) -> Array:
    if not isinstance(leaf, FP8Blocks):
      return leaf
    where = leaf.values.sharding if isinstance(leaf.values, jax.Array) else None
    mesh = where if isinstance(where, jax.sharding.NamedSharding) else None
    return jax.jit(lambda x: x.astype(dtype), out_shardings=mesh)(leaf)

  return jax.tree.map(plain, weights, is_leaf=lambda x: isinstance(x, FP8Blocks))


def quantize_matrix(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """E4M3 values and block scales of a float matrix [out, in], on the host.

  A block's scale is its largest magnitude over 448, or 1 where that is zero.
  """
  rows, columns = matrix.shape
  values = np.empty(matrix.shape, E4M3)
  scales = np.empty((blocks(rows), blocks(columns)), np.float32)
  pad = blocks(columns) * BLOCK - columns
  for i in range(blocks(rows)):
    band = matrix[i * BLOCK : (i + 1) * BLOCK].astype(np.float32)
    largest = np.pad(np.abs(band).max(0), (0, pad)).reshape(-1, BLOCK).max(1)
    scale = (largest / np.float32(E4M3_MAX)).astype(np.float32)
    scales[i] = np.where(scale == 0, np.float32(1), scale)
    # A scale so small that it was itself rounded could carry a value beyond the largest.
    scaled = band / np.repeat(scales[i], BLOCK)[:columns]
    values[i * BLOCK : (i + 1) * BLOCK] = np.clip(scaled, -E4M3_MAX, E4M3_MAX).astype(E4M3)
  return values, scales


def dequantize_matrix(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
  """The float32 matrix of E4M3 values [out, in] and their block scales, on the host."""
  rows, columns = values.shape
  matrix = _VALUES[values.view(np.uint8)]
  for i in range(blocks(rows)):
    matrix[i * BLOCK : (i + 1) * BLOCK] *= np.repeat(scales[i], BLOCK)[:columns]
  return matrix


def _spread(scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`scale` with every axis in its full size."""
  for axis, size in enumerate(shape):
    if scale.shape[axis] != size:
      scale = jnp.repeat(scale, BLOCK, axis=axis)
      scale = jax.lax.slice_in_dim(scale, 0, size, axis=axis)
  return scale
