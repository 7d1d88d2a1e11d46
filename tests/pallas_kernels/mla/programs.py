"""The decoding kernels at the models' shapes, for compilation."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.mla.shapes import LATENT, ROPE, SCALE, SHAPES


def programs(chip):
  if chip == "h100":
    from pallas_kernels.mla import mgpu as kernel
  else:
    from pallas_kernels.mla import tpu as kernel

  def args(B, H, S):
    q = jax.ShapeDtypeStruct((B, H, LATENT + ROPE), jnp.bfloat16)
    kv = jax.ShapeDtypeStruct((B, S, LATENT + ROPE), jnp.bfloat16)
    return q, kv, jax.ShapeDtypeStruct((B, S), jnp.bool_)

  decode = functools.partial(kernel.decode, latent=LATENT, scale=SCALE)
  return {name: (decode, args(B, H, S)) for name, B, H, S in SHAPES}
