"""What a matmul of E4M3 values multiplies where the device has no matmul of them."""

import jax
import jax.numpy as jnp

from pallas_kernels import compat
from pallas_kernels.fp8.formats import E4M3


def tpu_dtype() -> jnp.dtype:
  """What a TPU's matrix unit takes: E4M3 on v7, else bfloat16, which holds every E4M3 value."""
  return E4M3 if compat.device_kind() == "TPU7x" else jnp.bfloat16


def xla_operand(x: jax.Array) -> jax.Array:
  """A dequantised float32 operand for XLA: bfloat16, but as it is on CPUs, whose bfloat16 is slow.

  On a GPU or TPU that rounds its values once more unless their scales are powers of two.
  """
  return x if jax.default_backend() == "cpu" else x.astype(jnp.bfloat16)
