"""A frozen matrix with a trained change of low rank: LoRA (2106.09685, section 4.1).

  y = x W + scale (x A) B, with scale alpha / rank

so that neither the change nor a gradient of the matrix is ever formed. `ops.linear` multiplies by
it as by any matrix.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
  """A parameter whose base, an array or FP8 (`ops.fp8`), stays while A and B are trained.

  I and O are the base's inputs and outputs, its axes of heads taken together; Y is the rank. Axes
  of stacked layers lead all three arrays, so that a scan slices them alike.
  """

  base: Any
  a_IY: Any
  b_YO: Any
  scale: float = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, ...]:
    """The shape of the parameter."""
    return self.base.shape

  def astype(self, dtype: jax.typing.DTypeLike) -> "LowRank":
    """The same in another dtype."""
    return jax.tree.map(lambda x: x.astype(dtype), self, is_leaf=lambda x: x is not self)

  def merged(self) -> jax.Array:
    """The one matrix that multiplies alike, in float32."""
    highest = jax.lax.Precision.HIGHEST
    change = jnp.matmul(self.a_IY, self.b_YO, precision=highest)
    return self.base.astype(jnp.float32) + (self.scale * change).reshape(self.shape)


def sizes(name: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
  """Axes in front, inputs and outputs of the parameter of this name, which ends in its axes.

  Of two axes of heads: those of `out_` are inputs, those of all others outputs.
  """
  axes = len(name.rsplit("_", 1)[1])
  stack, own = shape[: len(shape) - axes], shape[len(shape) - axes :]
  inputs = axes - 1 if name.startswith("out_") else 1
  return stack, math.prod(own[:inputs]), math.prod(own[inputs:])
