"""Attention of four rows of V3's heads, value and gradient, for `pallas_kernels.testing.aot`."""

import jax
import jax.numpy as jnp

from deepseek_jax.ops.attention import attend
from deepseek_jax.types import Span

B, T, H, K, U = 4, 4096, 128, 192, 128


def programs(chip):
  def step(q, k, v, cotangent, where):
    out, pull = jax.vjp(lambda q, k, v: attend(q, k, v, where, where, 0.07, 1024), q, k, v)
    return out, *pull(cotangent)

  operands = [jax.ShapeDtypeStruct((B, T, H, width), jnp.bfloat16) for width in (K, K, U, U)]
  where = Span(*[jax.ShapeDtypeStruct((B, T), jnp.int32)] * 2)
  return {"gradient": (step, [*operands, where])}
