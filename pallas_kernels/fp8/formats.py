"""E4M3, its scales, the tiles that share one, and what every form of a quantiser begins with."""

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.dispatch import require

E4M3 = jnp.float8_e4m3fn
E4M3_MAX = 448.0
# Tiles of smaller magnitudes share its scale. DeepSeek's quantiser of activations has 1e-4, which
# gradients lie far below; here a scale, its inverse and its smallest step, 4e-36, are still normal.
SMALLEST_AMAX = 1e-30
TILE = 128  # elements along the contraction that share a scale; blocks are TILE x TILE


def scale_of(amax: jax.Array, power_of_two: bool = False) -> jax.Array:
  """The float32 scale that carries `amax` to E4M3's largest value; rounded up to 2^k on demand.

  A product with 1 / 448, since XLA makes one of a division by a constant where it optimises: so
  every platform and every kernel has the same scale.
  """
  scale = jnp.maximum(amax.astype(jnp.float32), SMALLEST_AMAX) * (1 / E4M3_MAX)
  if not power_of_two:
    return scale
  bits = lax.bitcast_convert_type(scale, jnp.int32)  # sign, 8 bits of exponent, 23 of mantissa
  rounded_up = (bits + 0x7FFFFF) & ~0x7FFFFF
  return lax.bitcast_convert_type(rounded_up, jnp.float32)


def cast(x: jax.Array) -> jax.Array:
  """To E4M3, out of range to its largest value: the bare cast would make NaN of it."""
  return jnp.clip(x, -E4M3_MAX, E4M3_MAX).astype(E4M3)


def float32(x: jax.Array) -> jax.Array:
  """What a matrix is quantised from."""
  return x.astype(jnp.float32)


def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
  """silu(gate) * up in float32: the hidden activations of an expert."""
  return jax.nn.silu(float32(gate)) * float32(up)


def fitted(size: int, most: int) -> int:
  """The largest multiple of 128 up to `most`, at least 128, that divides a multiple of 128."""
  return max(d for d in range(TILE, max(most, TILE) + 1, TILE) if size % d == 0)


def require_blocks(*matrices: jax.Array) -> None:
  """Raises Unsupported unless the matrices have the same shape, made of blocks of 128x128."""
  for x in matrices:
    whole = x.shape == matrices[0].shape and not any(size % TILE for size in x.shape)
    require(whole, f"a matrix of {x.shape} is not made of tiles of 128x128.")
