"""Matrices kept with their outputs first, as products with few rows on a CPU want them.

A decoding step multiplies each matrix with a handful of rows. XLA's CPU products (YNN) first pack
their right operand, which costs more than the few rows do; on the left a matrix is read as it
lies. `product` is the one place that says which operand stands where.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

FEW_ROWS = 64  # up to so many the matrix stands on the left whatever its shape


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Oriented:
  """A parameter [K, N] kept as [N, K]; stacks [E, K, N] as [E, N, K].

  K or N may be two axes of heads, [D, H, K] kept as [H, K, D] and [H, K, D] as [D, H, K].
  """

  outputs_first: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    """Of the matrices, or of a stack of them."""
    *stack, columns, rows = self.outputs_first.shape
    return (*stack, rows, columns)

  def astype(self, dtype: jax.typing.DTypeLike) -> "Oriented":
    """The same in another dtype."""
    return Oriented(self.outputs_first.astype(dtype))


def orient(name: str, w: jax.Array) -> Oriented:
  """The parameter of this name, whose axes it ends in (see types.py), with its outputs first."""
  axes = name.rsplit("_", 1)[1]
  if axes.startswith("E"):
    return Oriented(jnp.swapaxes(w, 1, 2))
  return Oriented(jnp.moveaxis(w, -1, 0) if name.startswith("out_") else jnp.moveaxis(w, 0, -1))


def product(x: jax.Array, w: Any, out: jax.typing.DTypeLike | None = None) -> jax.Array:
  """x @ w for x [..., K] and one matrix, or for rows [E, M, K] and a stack; `out` is its dtype."""
  if not isinstance(w, Oriented):
    return jnp.matmul(x, w, preferred_element_type=out)
  w_NK = w.outputs_first
  if w_NK.ndim == 3:
    return _product(x, w_NK, out)
  y_MN = _product(x.reshape(-1, x.shape[-1]), w_NK, out)
  return y_MN.reshape(*x.shape[:-1], len(w_NK))


def _product(x: jax.Array, w: jax.Array, out: jax.typing.DTypeLike | None) -> jax.Array:
  """[M, N] of x [M, K] and w [N, K], or a stack of such products.

  Of more rows, narrow matrices (N <= K) are faster on the left, wide ones on the right.
  """
  last, stack = x.ndim - 1, tuple(range(x.ndim - 2))
  dimensions = (((last,), (last,)), (stack, stack))
  (rows, inputs), outputs = x.shape[-2:], w.shape[-2]
  if rows > FEW_ROWS and outputs > inputs:
    return jax.lax.dot_general(x, w, dimensions, preferred_element_type=out)
  y_NM = jax.lax.dot_general(w, x, dimensions, preferred_element_type=out)
  # Without the barrier XLA takes the transposition into the product, which turns it round again.
  return jnp.swapaxes(jax.lax.optimization_barrier(y_NM), -1, -2)
