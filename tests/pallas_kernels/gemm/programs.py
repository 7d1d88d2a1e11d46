"""The products that are compiled for chips that are not there."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.gemm import linear, mgpu, shapes, tpu


def _arguments(M, N, K, by_blocks):
  array, f8, f32 = jax.ShapeDtypeStruct, jnp.float8_e4m3fn, jnp.float32
  w_scale = (N // 128, K // 128) if by_blocks else (K // 128, N)
  return (
    array((M, K), f8),
    array((K // 128, M), f32),
    array((N, K), f8),
    array(w_scale, f32),
  )


def _training(x, w, dy, implementation):
  y, pull = jax.vjp(functools.partial(linear, implementation=implementation), x, w)
  return y, *pull(dy)


def programs(chip):
  """Forward and weight gradient of V3's experts, and a small layer forward and backward."""
  module = mgpu if chip == "h100" else tpu
  (N, K), M = shapes.WEIGHTS["expert gate+up"], max(shapes.TOKENS)
  weight_gradient = functools.partial(module.matmul, out_dtype=jnp.float32)
  bf16 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
  layer = functools.partial(_training, implementation="mgpu" if chip == "h100" else "tpu")
  arrays = (bf16((1000, 384)), jax.ShapeDtypeStruct((576, 384), jnp.float32), bf16((1000, 576)))
  return {
    "forward": (module.matmul, _arguments(M, N, K, True)),
    "weight gradient": (weight_gradient, _arguments(N, K, M, False)),
    "layer": (layer, arrays),
  }


def all_weights(chip):
  """Every weight that V3 multiplies in FP8."""
  module = mgpu if chip == "h100" else tpu
  return {
    f"{name}, {M} tokens": (module.matmul, _arguments(_up(M), _up(N), K, True))
    for name, (N, K) in shapes.WEIGHTS.items()
    for M in shapes.TOKENS
  }


def _up(size):
  return -(-size // 128) * 128
