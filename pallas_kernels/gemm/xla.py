"""The block-scaled product as XLA computes it best: dequantised, then one dot.

XLA has no FP8 matmul with these scales: it dequantises whatever one writes.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.fp8.operands import xla_operand
from pallas_kernels.fp8.ref import dequantize_blocks, dequantize_rows


def matmul(
  x_MK: jax.Array,
  x_scale: jax.Array,
  w_NK: jax.Array,
  w_scale: jax.Array,
  *,
  out_dtype: jnp.dtype = jnp.bfloat16,
) -> jax.Array:
  """x . w^T; arguments as in `ref.matmul`."""
  N, K = w_NK.shape
  by_blocks = w_scale.shape == (N // 128, K // 128)
  x = xla_operand(dequantize_rows(x_MK, x_scale))
  w = xla_operand((dequantize_blocks if by_blocks else dequantize_rows)(w_NK, w_scale))
  return jnp.dot(x, w.T, preferred_element_type=jnp.float32).astype(out_dtype)
