"""Grouped matmuls as XLA does them best: a loop over tiles of 128 rows, each one dense matmul.

`jax.lax.ragged_dot` computes the same, but off TPUs XLA expands it to every group for every row
(2 GiB of temporaries for 64 groups of 2048 columns and 8192 rows).
"""

import jax
import jax.numpy as jnp

from pallas_kernels.fp8.formats import TILE
from pallas_kernels.fp8.operands import xla_operand
from pallas_kernels.fp8.ref import dequantize_blocks, dequantize_rows
from pallas_kernels.grouped.layout import Layout


def m_grouped(
  a_MK: jax.Array,
  a_scale_CM: jax.Array,
  b_GNK: jax.Array,
  b_scale_GNK: jax.Array,
  layout: Layout,
  *,
  out_dtype: jnp.dtype,
) -> jax.Array:
  """As ref.m_grouped, on dequantised operands."""
  G, N, K = b_GNK.shape
  b_GNK = dequantize_blocks(b_GNK.reshape(G * N, K), b_scale_GNK.reshape(-1, K // TILE))
  a_MK = dequantize_rows(a_MK, a_scale_CM)
  return rows(xla_operand(a_MK), xla_operand(b_GNK).reshape(G, N, K), layout, out_dtype)


def k_grouped(
  a_NM: jax.Array, a_scale_TN: jax.Array, b_KM: jax.Array, b_scale_TK: jax.Array, layout: Layout
) -> jax.Array:
  """As ref.k_grouped, on dequantised operands."""
  a_NM, b_KM = dequantize_rows(a_NM, a_scale_TN), dequantize_rows(b_KM, b_scale_TK)
  return matrices(xla_operand(a_NM), xla_operand(b_KM), layout)


def rows(a_MK: jax.Array, b_GNK: jax.Array, layout: Layout, out_dtype: jnp.dtype) -> jax.Array:
  """Each tile of rows times the transposed matrix of its group; zeros in tiles of no group."""

  def multiplied(a_RK: jax.Array, group: jax.Array) -> jax.Array:
    y_RN = jnp.einsum("rk,nk->rn", a_RK, b_GNK[group], preferred_element_type=jnp.float32)
    return y_RN.astype(out_dtype)

  def zeros(a_RK: jax.Array, group: jax.Array) -> jax.Array:
    return jnp.zeros((TILE, b_GNK.shape[1]), out_dtype)

  def tile(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jax.lax.cond(operands[1] < 0, zeros, multiplied, *operands)

  a_TRK = a_MK.reshape(-1, TILE, a_MK.shape[1])
  return jax.lax.map(tile, (a_TRK, layout.group_T)).reshape(a_MK.shape[0], -1)


def matrices(a_NM: jax.Array, b_KM: jax.Array, layout: Layout) -> jax.Array:
  """The products a b^T over the rows of each group, in float32: [G, N, K]."""

  def add(tile: jax.Array, y_GNK: jax.Array) -> jax.Array:
    a_NR, b_KR = (jax.lax.dynamic_slice_in_dim(x, tile * TILE, TILE, axis=1) for x in (a_NM, b_KM))
    part_NK = jnp.einsum("nr,kr->nk", a_NR, b_KR, preferred_element_type=jnp.float32)
    return y_GNK.at[layout.group_T[tile]].add(part_NK)

  zero_GNK = jnp.zeros((layout.groups, a_NM.shape[0], b_KM.shape[0]), jnp.float32)
  return jax.lax.fori_loop(0, layout.edge_H[-1], add, zero_GNK)
