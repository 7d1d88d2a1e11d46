"""How linear layers, dense or of experts, quantise their operands, as V3 does (2412.19437, 3.3).

Activations and their gradients have 1x128 tiles along the contraction, weights 128x128 blocks. The
gradient of a weight contracts over tokens, and its operands are regrouped in 128x1 tiles: an
activation from the 1x128 tiles that are all that is kept of it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.fp8 import api as fp8
from pallas_kernels.fp8.formats import TILE
from pallas_kernels.fp8.ref import dequantize_rows


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the operands of a linear layer are quantised.

  Attributes:
    power_of_two: scales are rounded up to 2^k.
    gradient_blocks: the output's gradient has 128x128 blocks in the input gradient's product; the
      paper saw a model diverge of it (appendix B.2), V3 has 1x128 tiles there.
  """

  power_of_two: bool = False
  gradient_blocks: bool = False


V3 = Recipe()


@dataclasses.dataclass(frozen=True)
class Quantizer:
  """A recipe, and the form of all operations that carry it out; None chooses by the device."""

  recipe: Recipe = V3
  implementation: str | None = None

  def rows(self, x_MK: jax.Array) -> fp8.Quantized:
    """x in 1x128 tiles."""
    return fp8.quantize_rows(x_MK, **self._options)

  def columns(self, x_MK: jax.Array) -> fp8.Quantized:
    """x transposed, in tiles of 128 of its rows: an operand of a weight's gradient."""
    return fp8.quantize_columns(x_MK, **self._options)

  def regrouped(self, x: fp8.Quantized) -> fp8.Quantized:
    """`columns` of what is kept of an activation, its 1x128 tiles."""
    return self.columns(dequantize_rows(*x))

  def blocks(self, w: jax.Array) -> fp8.Quantized:
    """A matrix [N, K] in 128x128 blocks, or each of a stack [G, N, K], which no block crosses."""
    *lead, N, K = w.shape
    values, scale = fp8.quantize_blocks(w.reshape(-1, K), **self._options)
    return values.reshape(w.shape), scale.reshape(*lead, N // TILE, K // TILE)

  def hidden(self, g_MF: jax.Array, u_MF: jax.Array) -> fp8.Quantized:
    """silu(g) * u in 1x128 tiles."""
    return fp8.swiglu_quantize(g_MF, u_MF, **self._options)

  def gradient(self, dy_MN: jax.Array) -> tuple[fp8.Quantized, fp8.Quantized]:
    """The output's gradient as the input's gradient multiplies it, and as the weight's does."""
    if not self.recipe.gradient_blocks:
      return fp8.quantize_both(dy_MN, **self._options)
    values_MN, scale = fp8.quantize_blocks(dy_MN, **self._options)
    return (values_MN, jnp.repeat(scale.T, TILE, axis=1)), self.columns(dy_MN)

  @property
  def _options(self) -> dict[str, Any]:
    return {"power_of_two": self.recipe.power_of_two, "implementation": self.implementation}


def transposed(w: fp8.Quantized) -> fp8.Quantized:
  """Blocks of the transposed matrices; they are square, so nothing is rounded again."""
  values, scale = w
  return values.swapaxes(-1, -2), scale.swapaxes(-1, -2)


@dataclasses.dataclass(frozen=True)
class Call:
  """What of a call to a linear layer is known before its arrays."""

  quantizer: Quantizer
  out_dtype: jnp.dtype
  x_dtype: jnp.dtype
  w_dtype: jnp.dtype

  def __post_init__(self) -> None:
    for name, dtype in (("x", self.x_dtype), ("w", self.w_dtype)):
      if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"linear layers take float32 or bfloat16, and {name} is {dtype}.")
