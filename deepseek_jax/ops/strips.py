"""Stacked matrices cut into strips of columns, for products with few rows on a CPU.

A decoding step multiplies each expert's matrix with a handful of rows, so that its time is that of
reading the matrix. XLA's CPU products read [512, 256] at half the speed of memory when there are
two to five rows, and strips of 64 columns, each contiguous, at nearly all of it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

WIDTH = 64  # columns of a strip
ROWS = 5  # with more rows than this a strip is no faster than the whole


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Strips:
  """Matrices [..., K, N] kept as [..., N / 64, K, 64]; a parameter in another layout."""

  strips: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the matrices."""
    *stack, count, rows, width = self.strips.shape
    return (*stack, rows, count * width)

  def astype(self, dtype: jax.typing.DTypeLike) -> "Strips":
    """The same in another dtype."""
    return Strips(self.strips.astype(dtype))

  def __getitem__(self, index: Any) -> "Strips":
    """Of the stack."""
    return Strips(self.strips[index])


def cut(stack_EKN: jax.Array) -> Strips:
  """Matrices whose columns are a multiple of 64, cut into strips."""
  E, K, N = stack_EKN.shape
  return Strips(jnp.swapaxes(stack_EKN.reshape(E, K, N // WIDTH, WIDTH), 1, 2))


def can_cut(shape: tuple[int, ...]) -> bool:
  """Whether matrices of this shape fall into whole strips."""
  return shape[-1] % WIDTH == 0


def product(x: jax.Array, w: jax.Array | Strips) -> jax.Array:
  """x @ w for rows [..., M, K] and matrices [..., K, N] of equal leading axes."""
  if not isinstance(w, Strips):
    return x @ w
  *stack, count, rows, width = w.strips.shape
  x = jax.lax.optimization_barrier(x)  # else what made it is computed for every strip
  each = jnp.broadcast_to(x[..., None, :, :], (*stack, count, *x.shape[-2:]))
  y = jnp.swapaxes(each @ w.strips, -3, -2)
  return y.reshape(*x.shape[:-1], count * width)
