"""The quantisations that are compiled for chips that are not there."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.fp8 import mgpu, tpu

OPERATIONS = (
  "quantize_rows",
  "quantize_columns",
  "quantize_both",
  "quantize_blocks",
  "swiglu_quantize",
)


def programs(chip):
  """Each operation on V3's hidden states of 4096 tokens, or a weight of an expert."""
  module = mgpu if chip == "h100" else tpu
  found = {}
  for dtype in (jnp.bfloat16, jnp.float32):
    x = jax.ShapeDtypeStruct((4096, 7168), dtype)
    for name in OPERATIONS:
      function = functools.partial(getattr(module, name), power_of_two=dtype == jnp.bfloat16)
      found[f"{name} {dtype.__name__}"] = (function, (x, x) if name.startswith("swiglu") else (x,))
  return found
