"""E4M3 with a scale per tile, as V3's training multiplies it (2412.19437, section 3.3.2), on any
device: values that E4M3 and the scales hold exactly, in float32.

Tiles cover the last two axes. An axis shorter than a tile is one tile, and a ragged last tile is
that of the array padded with zeros. The values are those of `pallas_kernels.fp8`, but the rounding
is done in float32 arithmetic: two to four times as fast on a CPU, and nothing that XLA may drop, as
it may a cast to a narrow type and back.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels.fp8.formats import E4M3, TILE, scale_of

ROWS, COLUMNS, BLOCKS = (1, TILE), (TILE, 1), (TILE, TILE)  # what shares a scale
_SMALLEST_NORMAL = 2.0**-6
_SUBNORMALS = 2.0**9  # one over the distance between E4M3's smallest numbers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tiles:
  """An array kept in E4M3: a quarter of its bytes in float32, and a scale for each tile."""

  values: jax.Array  # float8_e4m3fn
  scale: jax.Array  # float32, of an axis in tiles and an axis in a tile's elements for each of both
  tile: tuple[int, int] = dataclasses.field(metadata={"static": True})

  def restore(self) -> jax.Array:
    """The float32 array."""
    *_, M, K = self.values.shape
    return _join(_split(self.values.astype(jnp.float32), self.tile) * self.scale, M, K)


def quantize(x_MK: jax.Array, tile: tuple[int, int]) -> Tiles:
  """The E4M3 values of x [..., M, K] and the scales of its tiles."""
  *_, M, K = x_MK.shape
  codes, scale = _codes(x_MK, tile)
  return Tiles(_join(codes, M, K).astype(E4M3), scale, tile)


def rounded(x_MK: jax.Array, tile: tuple[int, int]) -> jax.Array:
  """`quantize(x, tile).restore()`, in one pass."""
  *_, M, K = x_MK.shape
  codes, scale = _codes(x_MK, tile)
  return _join(codes * scale, M, K)


def round_e4m3(x: jax.Array) -> jax.Array:
  """Float32 within E4M3's range, to E4M3's nearest number; ties to even."""
  normal = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=3)
  even = jax.lax.RoundingMethod.TO_NEAREST_EVEN
  small = jax.lax.round(x * _SUBNORMALS, even) * (1 / _SUBNORMALS)
  return jnp.where(jnp.abs(x) < _SMALLEST_NORMAL, small, normal)


def _codes(x_MK: jax.Array, tile: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
  """The numbers of E4M3 that stand for x, in float32 and split into tiles, and the scales."""
  x = _split(x_MK.astype(jnp.float32), tile)
  scale = scale_of(jnp.abs(x).max(axis=(-3, -1), keepdims=True))
  return round_e4m3(x / scale), scale  # x / scale is 448 at most, but for its own last bit


def _split(x_MK: jax.Array, tile: tuple[int, int]) -> jax.Array:
  """[..., M, K] -> [..., M / m, m, K / k, k]."""
  *lead, M, K = x_MK.shape
  m, k = min(tile[0], M), min(tile[1], K)
  if M % m or K % k:
    x_MK = jnp.pad(x_MK, [(0, 0)] * len(lead) + [(0, -M % m), (0, -K % k)])
  return x_MK.reshape(*lead, -(-M // m), m, -(-K // k), k)


def _join(x: jax.Array, M: int, K: int) -> jax.Array:
  """The inverse of `_split`."""
  *lead, rows, m, columns, k = x.shape
  return x.reshape(*lead, rows * m, columns * k)[..., :M, :K]
