"""The block-scaled product in plain jnp; what the kernels are held against."""

import jax
import jax.numpy as jnp
from jax import lax

from pallas_kernels.fp8.formats import TILE


def matmul(
  x_MK: jax.Array,
  x_scale: jax.Array,
  w_NK: jax.Array,
  w_scale: jax.Array,
  *,
  out_dtype: jnp.dtype = jnp.bfloat16,
) -> jax.Array:
  """x . w^T of E4M3 values: 128 of K at a time, its sum scaled and added in float32.

  Args:
    x_scale: [K / 128, M], of 1x128 tiles.
    w_scale: [N / 128, K / 128], of 128x128 blocks, or [K / 128, N], of 1x128 tiles.
  """
  (M, K), N = x_MK.shape, w_NK.shape[0]
  steps = K // TILE
  if w_scale.shape == (N // TILE, steps):
    w_scale = jnp.repeat(w_scale.T, TILE, axis=1)

  def add(total_MN, step):
    x_MT, w_NT, x_scale_M, w_scale_N = step
    part_MN = jnp.dot(
      x_MT.astype(jnp.float32), w_NT.astype(jnp.float32).T, precision=lax.Precision.HIGHEST
    )
    return total_MN + part_MN * (x_scale_M[:, None] * w_scale_N[None, :]), None

  x_SMT = x_MK.reshape(M, steps, TILE).swapaxes(0, 1)
  w_SNT = w_NK.reshape(N, steps, TILE).swapaxes(0, 1)
  start = jnp.zeros((M, N), jnp.float32)
  return lax.scan(add, start, (x_SMT, w_SNT, x_scale, w_scale))[0].astype(out_dtype)
