"""Quantisation to E4M3 with the scales of 1x128 tiles, 128x1 tiles or 128x128 blocks.

Shapes are multiples of 128, inputs float32 or bfloat16, scales float32. With `power_of_two` they
are rounded up to 2^k, which makes dequantising exact in bfloat16. None of these is differentiable:
`pallas_kernels.gemm.linear` is, and calls them.
"""

import jax

from pallas_kernels import dispatch
from pallas_kernels.fp8 import mgpu, ref, tpu

Quantized = tuple[jax.Array, jax.Array]


def quantize_rows(
  x_MK: jax.Array, *, power_of_two: bool = False, implementation: str | None = None
) -> Quantized:
  """1x128 tiles: E4M3 values [M, K] and float32 scales [K / 128, M]."""
  return _call("quantize_rows", implementation, x_MK, power_of_two=power_of_two)


def quantize_columns(
  x_MK: jax.Array, *, power_of_two: bool = False, implementation: str | None = None
) -> Quantized:
  """128x1 tiles as a transposed copy: E4M3 values [K, M] and float32 scales [M / 128, K]."""
  return _call("quantize_columns", implementation, x_MK, power_of_two=power_of_two)


def quantize_both(
  x_MK: jax.Array, *, power_of_two: bool = False, implementation: str | None = None
) -> tuple[Quantized, Quantized]:
  """Rows and columns, for a matmul that will be differentiated; one reading of x on Hopper."""
  return _call("quantize_both", implementation, x_MK, power_of_two=power_of_two)


def quantize_blocks(
  w_NK: jax.Array, *, power_of_two: bool = False, implementation: str | None = None
) -> Quantized:
  """128x128 blocks: E4M3 values [N, K] and float32 scales [N / 128, K / 128]."""
  return _call("quantize_blocks", implementation, w_NK, power_of_two=power_of_two)


def swiglu_quantize(
  gate_MF: jax.Array,
  up_MF: jax.Array,
  *,
  power_of_two: bool = False,
  implementation: str | None = None,
) -> Quantized:
  """silu(gate) * up in 1x128 tiles: E4M3 values [M, F] and float32 scales [F / 128, M]."""
  return _call("swiglu_quantize", implementation, gate_MF, up_MF, power_of_two=power_of_two)


def _call(name: str, implementation: str | None, *arrays: jax.Array, power_of_two: bool):
  """The form `ref` is also what XLA fuses best."""
  for array in arrays:
    if array.shape != arrays[0].shape or any(size % 128 for size in array.shape):
      shapes = ", ".join(str(array.shape) for array in arrays)
      raise ValueError(f"{name} takes matrices of equal multiples of 128, not {shapes}.")
  modules = {"ref": ref, "xla": ref, "tpu": tpu, "mgpu": mgpu}
  forms = {key: getattr(module, name) for key, module in modules.items()}
  return dispatch.call(f"fp8.{name}", implementation, forms, *arrays, power_of_two=power_of_two)
