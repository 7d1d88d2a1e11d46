"""How linear layers, dense or of experts, quantise their operands."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.fp8 import api as fp8
from pallas_kernels.fp8.formats import TILE


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the operands of a linear layer are quantised.

  Attributes:
    power_of_two: scales are rounded up to 2^k.
    gradient_blocks: the output's gradient has 128x128 blocks in the input gradient's matmul; the
      paper saw a model diverge of it (appendix B.2), V3 has 1x128 tiles there.
  """

  power_of_two: bool = False
  gradient_blocks: bool = False


V3 = Recipe()


@dataclasses.dataclass(frozen=True)
class Call:
  """What of a call to a linear layer is known before its arrays."""

  recipe: Recipe
  implementation: str | None
  out_dtype: jnp.dtype
  x_dtype: jnp.dtype
  w_dtype: jnp.dtype

  def __post_init__(self) -> None:
    for name, dtype in (("x", self.x_dtype), ("w", self.w_dtype)):
      if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"linear layers take float32 or bfloat16, and {name} is {dtype}.")

  @property
  def quantizing(self) -> dict[str, Any]:
    """The options of the quantisations."""
    return {"power_of_two": self.recipe.power_of_two, "implementation": self.implementation}

  def quantized_gradient(self, dy_MN: jax.Array) -> tuple[fp8.Quantized, fp8.Quantized]:
    """The output's gradient as the input's gradient multiplies it, and as the weight's does."""
    if not self.recipe.gradient_blocks:
      return fp8.quantize_both(dy_MN, **self.quantizing)
    values_MN, scale = fp8.quantize_blocks(dy_MN, **self.quantizing)
    rows = values_MN, jnp.repeat(scale.T, TILE, axis=1)
    return rows, fp8.quantize_columns(dy_MN, **self.quantizing)
