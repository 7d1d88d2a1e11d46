"""Grouped matmuls of FP8 operands in plain jnp; what the kernels are held against.

Sums over 128 of the contraction are scaled and added up in float32 (2412.19437, section 3.3.2).
Values and scales are as fp8.ref makes them, rows as layout.arrange places them.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.fp8.formats import TILE
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
  """Each tile of 128 rows times the transposed matrix of its group; zeros in tiles of no group.

  Args:
    a_MK: values in 1x128 tiles; a_scale_CM: their scales, C = K / 128.
    b_GNK: values in 128x128 blocks; b_scale_GNK: their scales, [G, N / 128, K / 128].
  """
  K = a_MK.shape[1]

  def tile(operands: tuple[jax.Array, ...]) -> jax.Array:
    a_RK, scale_CR, group = operands
    a_RCk, b_NCk = (
      x.astype(jnp.float32).reshape(-1, K // TILE, TILE) for x in (a_RK, b_GNK[group])
    )
    part_CRN = jnp.einsum("rck,nck->crn", a_RCk, b_NCk, precision="highest")
    b_scale_CN = jnp.repeat(b_scale_GNK[group], TILE, axis=0).T
    y_RN = (part_CRN * scale_CR[:, :, None] * b_scale_CN[:, None, :]).sum(axis=0)
    return jnp.where(group < 0, 0, y_RN).astype(out_dtype)

  a_TRK = a_MK.reshape(-1, TILE, K)
  scale_TCR = a_scale_CM.reshape(K // TILE, -1, TILE).swapaxes(0, 1)
  return jax.lax.map(tile, (a_TRK, scale_TCR, layout.group_T)).reshape(a_MK.shape[0], -1)


def k_grouped(
  a_NM: jax.Array, a_scale_TN: jax.Array, b_KM: jax.Array, b_scale_TK: jax.Array, layout: Layout
) -> jax.Array:
  """The products a b^T over the rows of each group, in float32: [G, N, K], zeros if it is empty."""

  def add(y_GNK: jax.Array, tile: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
    a_NR, a_scale_N, b_KR, b_scale_K, group = tile
    part_NK = jnp.matmul(a_NR, b_KR.T, precision="highest") * a_scale_N[:, None] * b_scale_K
    return y_GNK.at[group].add(jnp.where(group < 0, 0, part_NK)), None

  a_TNR, b_TKR = (
    x.astype(jnp.float32).reshape(x.shape[0], -1, TILE).swapaxes(0, 1) for x in (a_NM, b_KM)
  )
  zero_GNK = jnp.zeros((layout.groups, a_NM.shape[0], b_KM.shape[0]), jnp.float32)
  return jax.lax.scan(add, zero_GNK, (a_TNR, a_scale_TN, b_TKR, b_scale_TK, layout.group_T))[0]
