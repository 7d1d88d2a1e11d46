"""Quantisation in plain jnp; what the kernels are held against.

Scales of rows are stored with the contraction first, [K / 128, M], as the matmuls load them.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.fp8.formats import TILE, cast, float32, scale_of, swiglu


def quantize_rows(x_MK: jax.Array, *, power_of_two: bool = False) -> tuple[jax.Array, jax.Array]:
  """1x128 tiles: E4M3 values [M, K] and float32 scales [K / 128, M]."""
  M, K = x_MK.shape
  x_MKT = float32(x_MK).reshape(M, K // TILE, TILE)
  scale_MK = scale_of(jnp.abs(x_MKT).max(axis=-1), power_of_two)
  return cast(x_MKT / scale_MK[:, :, None]).reshape(M, K), scale_MK.T


def quantize_columns(x_MK: jax.Array, *, power_of_two: bool = False) -> tuple[jax.Array, jax.Array]:
  """128x1 tiles as a transposed copy: E4M3 values [K, M] and float32 scales [M / 128, K]."""
  return quantize_rows(x_MK.T, power_of_two=power_of_two)


def quantize_both(x_MK: jax.Array, *, power_of_two: bool = False):
  """Rows and columns: what a matmul's forward and backward pass need of its input."""
  return tuple(
    quantize(x_MK, power_of_two=power_of_two) for quantize in (quantize_rows, quantize_columns)
  )


def quantize_blocks(w_NK: jax.Array, *, power_of_two: bool = False) -> tuple[jax.Array, jax.Array]:
  """128x128 blocks: E4M3 values [N, K] and float32 scales [N / 128, K / 128]."""
  N, K = w_NK.shape
  w = float32(w_NK).reshape(N // TILE, TILE, K // TILE, TILE)
  scale = scale_of(jnp.abs(w).max(axis=(1, 3)), power_of_two)
  return cast(w / scale[:, None, :, None]).reshape(N, K), scale


def swiglu_quantize(
  gate_MF: jax.Array, up_MF: jax.Array, *, power_of_two: bool = False
) -> tuple[jax.Array, jax.Array]:
  """silu(gate) * up in float32, quantised in 1x128 tiles: values [M, F], scales [F / 128, M]."""
  return quantize_rows(swiglu(gate_MF, up_MF), power_of_two=power_of_two)


def dequantize_rows(values_MK: jax.Array, scale_KM: jax.Array) -> jax.Array:
  """The float32 matrix of 1x128 tiles."""
  return float32(values_MK) * jnp.repeat(scale_KM.T, TILE, axis=1)


def dequantize_blocks(values_NK: jax.Array, scale_NK: jax.Array) -> jax.Array:
  """The float32 matrix of 128x128 blocks."""
  spread = jnp.repeat(jnp.repeat(scale_NK, TILE, axis=0), TILE, axis=1)
  return float32(values_NK) * spread
