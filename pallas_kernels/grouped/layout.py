"""Where the rows of a mixture of experts stand: groups that start at multiples of 128.

Axes: R choices (tokens x top_k, a token's choices side by side), M rows with padding, T tiles of
128 rows, G groups (the experts held here). A tile belongs to one group, so that a kernel looks up
one matrix per tile, and a scale of 128 rows of the weight gradient never crosses groups.
"""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels.fp8.formats import TILE


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layout:
  """The places of R choices in M padded rows; all int32.

  Attributes:
    row_R: the row of each choice, or M where its group is not held here.
    choice_M: the choice in each row, or R in padding; the inverse of `row_R`.
    group_T: the group of each tile, ascending, or -1 after the last tile in use.
    edge_H: H = G + 1; group g has the tiles edge_H[g] to edge_H[g + 1] - 1, none if it is empty.
  """

  row_R: jax.Array
  choice_M: jax.Array
  group_T: jax.Array
  edge_H: jax.Array

  @property
  def rows(self) -> int:
    """M."""
    return self.choice_M.shape[0]

  @property
  def groups(self) -> int:
    """G."""
    return self.edge_H.shape[0] - 1

  @property
  def held_M(self) -> jax.Array:
    """Which rows hold a choice."""
    return self.choice_M < self.row_R.shape[0]


def padded_rows(choices: int, groups: int) -> int:
  """M, enough for every way in which the choices can fall.

  A group that has any wastes fewer than 128 rows. (So M is no more than the choices, rounded up to
  128, and 128 for each group; far less for the few choices of decoding.)
  """
  return (choices + min(choices, groups) * (TILE - 1)) // TILE * TILE


def arrange(group_R: jax.Array, groups: int) -> Layout:
  """Sorts choices by group, in their order within one, each group from a multiple of 128.

  Args:
    group_R: the group of each choice. Others than 0 to groups - 1 are held elsewhere: they get no
      row.
    groups: G.
  """
  (choices,) = group_R.shape
  here_R = (group_R >= 0) & (group_R < groups)
  group_R = jnp.where(here_R, group_R, groups).astype(jnp.int32)
  count_H = jnp.bincount(group_R, length=groups + 1).astype(jnp.int32)  # those elsewhere come last
  tiles_H = -(-count_H // TILE)
  edge_H = jnp.cumsum(tiles_H, dtype=jnp.int32) - tiles_H

  sorted_R = jnp.argsort(group_R, stable=True).astype(jnp.int32)
  first_H = jnp.cumsum(count_H, dtype=jnp.int32) - count_H
  within_R = jnp.arange(choices, dtype=jnp.int32) - first_H[group_R[sorted_R]]
  within_R = jnp.zeros_like(within_R).at[sorted_R].set(within_R, unique_indices=True)
  row_R = edge_H[group_R] * TILE + within_R
  return from_places(jnp.where(here_R, row_R, padded_rows(choices, groups)), edge_H)


def from_places(row_R: jax.Array, edge_H: jax.Array) -> Layout:
  """The layout whose rows and edges are known already, as those of routing's plan are.

  Args:
    row_R: the row of each choice, padded_rows(R, G) or more where its group is not held here.
    edge_H: the first tile of each group, and where the last one ends.
  """
  choices, groups = row_R.shape[0], edge_H.shape[0] - 1
  rows = padded_rows(choices, groups)
  choice_R = jnp.arange(choices, dtype=jnp.int32)
  tile_T = jnp.arange(rows // TILE, dtype=jnp.int32)
  group_T = jnp.searchsorted(edge_H[1:], tile_T, side="right").astype(jnp.int32)
  return Layout(
    row_R=row_R,
    choice_M=jnp.full(rows, choices, jnp.int32).at[row_R].set(choice_R, mode="drop"),
    group_T=jnp.where(tile_T < edge_H[-1], group_T, -1),
    edge_H=edge_H,
  )


def masked(x_MD: jax.Array, layout: Layout) -> jax.Array:
  """Zeros in padding: what stands there, even NaN, must not enter a scale or a sum over rows."""
  if x_MD.shape[0] != layout.rows:
    raise ValueError(f"x has {x_MD.shape[0]} rows, its layout {layout.rows}.")
  return jnp.where(layout.held_M[:, None], x_MD, 0)


@jax.custom_vjp
def to_rows(x_ND: jax.Array, layout: Layout) -> jax.Array:
  """Each token in the rows of its choices, zeros in padding. N divides R; gives x_MD."""
  top_k = layout.row_R.shape[0] // x_ND.shape[0]
  return _take(x_ND, layout.choice_M // top_k)


@jax.custom_vjp
def from_rows(y_MD: jax.Array, layout: Layout) -> jax.Array:
  """The rows of each choice, zeros for choices that have none. Gives y_RD."""
  return _take(y_MD, layout.row_R)


def combined(y_MD: jax.Array, weights_NA: jax.Array, layout: Layout) -> jax.Array:
  """The weighted sum of each token's rows, in float32: y_ND."""
  y_NAD = from_rows(y_MD, layout).reshape(*weights_NA.shape, -1).astype(jnp.float32)
  return jnp.sum(y_NAD * weights_NA.astype(jnp.float32)[:, :, None], axis=1)


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
  """x[index], zeros where the index is one past the end."""
  return x.at[index].get(mode="fill", fill_value=0)


def _to_rows_forward(x_ND: jax.Array, layout: Layout) -> tuple[jax.Array, tuple]:
  return to_rows(x_ND, layout), (x_ND[:, :0], layout)  # an empty array for its shape


def _to_rows_backward(residuals: tuple, d_MD: jax.Array) -> tuple[jax.Array, None]:
  """A sum over a token's choices in their order: repeatable, unlike a scatter on a GPU."""
  empty_N0, layout = residuals
  d_NAD = _take(d_MD, layout.row_R).reshape(empty_N0.shape[0], -1, d_MD.shape[1])
  return d_NAD.sum(axis=1, dtype=jnp.float32).astype(d_MD.dtype), None


def _from_rows_forward(y_MD: jax.Array, layout: Layout) -> tuple[jax.Array, Layout]:
  return from_rows(y_MD, layout), layout


def _from_rows_backward(layout: Layout, d_RD: jax.Array) -> tuple[jax.Array, None]:
  return _take(d_RD, layout.choice_M), None


to_rows.defvjp(_to_rows_forward, _to_rows_backward)
from_rows.defvjp(_from_rows_forward, _from_rows_backward)
