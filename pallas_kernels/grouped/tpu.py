"""Grouped matmuls of FP8 operands on TPUs.

The values are multiplied by 128 of the contraction at a time, as they are on v7 and as bfloat16
elsewhere, which is exact; each such sum is scaled and added up in float32. The groups of the tiles
are known to the index maps before the blocks are fetched (scalar prefetch).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import configs
from pallas_kernels.configs import questions
from pallas_kernels.fp8.formats import TILE, fitted
from pallas_kernels.fp8.operands import tpu_dtype
from pallas_kernels.grouped.layout import Layout

_NT = (((1,), (1,)), ((), ()))  # both operands keep the contraction last


@dataclasses.dataclass(frozen=True)
class Tiles:
  """Largest blocks of b's rows (N) and of the contraction or of dW's columns (K), in elements."""

  n: int = 512
  k: int = 8192

  def __post_init__(self) -> None:
    configs.check_fields(self, n=TILE, k=TILE)


def m_grouped(
  a_MK: jax.Array,
  a_scale_CM: jax.Array,
  b_GNK: jax.Array,
  b_scale_GNK: jax.Array,
  layout: Layout,
  *,
  out_dtype: jnp.dtype,
  tiles: Tiles | None = None,
  interpret: Any = False,
) -> jax.Array:
  """As ref.m_grouped. Where all of K fits a block, a matrix is fetched once for all its rows."""
  (M, K), (G, N, _) = a_MK.shape, b_GNK.shape
  tiles = tiles or questions.m_grouped(Tiles(), M, G, N, K)
  tile_n, tile_k = fitted(N, tiles.n), fitted(K, tiles.k)
  last = jnp.maximum(layout.edge_H[-1:] - 1, 0)
  # Tiles past the last one in use name its blocks again, which are then not fetched anew.
  fetch_T = jnp.maximum(layout.group_T[jnp.minimum(jnp.arange(M // TILE), last)], 0)

  def block(index):
    return lambda n, t, k, group, fetch, last: index(
      n, jnp.minimum(t, last[0]), k, group_of(fetch, t)
    )

  grid_spec = pltpu.PrefetchScalarGridSpec(
    num_scalar_prefetch=3,
    grid=(N // tile_n, M // TILE, K // tile_k),
    in_specs=[
      pl.BlockSpec((TILE, tile_k), block(lambda n, t, k, g: (t, k))),
      pl.BlockSpec((K // TILE, TILE), block(lambda n, t, k, g: (0, t))),
      pl.BlockSpec((1, tile_n, tile_k), block(lambda n, t, k, g: (g, n, k))),
      pl.BlockSpec(
        (1, N // TILE, K // TILE),
        block(lambda n, t, k, g: (g, 0, 0)),
        memory_space=pltpu.SMEM,
      ),
    ],
    out_specs=pl.BlockSpec((TILE, tile_n), lambda n, t, k, *_: (t, n)),
    scratch_shapes=[pltpu.VMEM((tile_n, TILE), jnp.float32)],
  )
  return pl.pallas_call(
    _m_kernel,
    grid_spec=grid_spec,
    out_shape=jax.ShapeDtypeStruct((M, N), out_dtype),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "arbitrary", "arbitrary")
    ),
    cost_estimate=_cost(M, N, K, a_MK, b_GNK, out_bytes=M * N * jnp.dtype(out_dtype).itemsize),
    name="m_grouped_fp8",
    interpret=interpret,
  )(layout.group_T, fetch_T, last, a_MK, a_scale_CM, b_GNK, b_scale_GNK)


def _m_kernel(group_T, fetch_T, last, a_RK, a_scale_CR, b_1NK, b_scale_1NK, y_RN, acc_NR) -> None:
  """One block of the contraction of one tile; the sum is kept transposed, rows along the lanes."""
  n, t, k = pl.program_id(0), pl.program_id(1), pl.program_id(2)
  (tile_n, _), tile_k, operand = acc_NR.shape, a_RK.shape[1], tpu_dtype()

  @pl.when(k == 0)
  def _first():
    start(acc_NR)

  def step(c, carry):
    columns = pl.ds(pl.multiple_of(c * TILE, TILE), TILE)
    chunk = k * (tile_k // TILE) + c
    a = a_RK[:, columns].astype(operand)
    a_scale_1R = a_scale_CR[pl.ds(chunk, 1), :]
    for i in range(tile_n // TILE):
      part = pl.ds(i * TILE, TILE)
      b = b_1NK[0, part, columns].astype(operand)
      sum_NR = jax.lax.dot_general(b, a, _NT, preferred_element_type=jnp.float32)
      b_scale = b_scale_1NK[block_of(n * (tile_n // TILE) + i, chunk)]
      acc_NR[part, :] += sum_NR * (a_scale_1R * b_scale)

  @pl.when(group_T[t] >= 0)
  def _every():
    jax.lax.fori_loop(0, tile_k // TILE, step, None)

  @pl.when(k == pl.num_programs(2) - 1)
  def _last():
    y_RN[...] = acc_NR[...].T.astype(y_RN.dtype)


def group_of(group_T: jax.Array, t: jax.Array) -> jax.Array:
  """The group of a tile."""
  return group_T[t]


def block_of(n: jax.Array, chunk: jax.Array) -> tuple[jax.Array | int, ...]:
  """Where the scale of a block of b stands, its group being fetched."""
  return 0, n, chunk


def start(acc) -> None:
  """An accumulator's first value."""
  acc[...] = jnp.zeros_like(acc)


def k_grouped(
  a_NM: jax.Array,
  a_scale_TN: jax.Array,
  b_KM: jax.Array,
  b_scale_TK: jax.Array,
  layout: Layout,
  *,
  tiles: Tiles | None = None,
  interpret: Any = False,
) -> jax.Array:
  """As ref.k_grouped. A step adds one tile of rows; a group without rows has one step for zeros."""
  (N, M), K = a_NM.shape, b_KM.shape[0]
  tiles = tiles or questions.k_grouped(Tiles(k=512), M, layout.groups, N, K)
  tile_n, tile_k = fitted(N, tiles.n), fitted(K, tiles.k)
  group_S, tile_S = steps(layout)

  def rows(s, tile):
    return jnp.maximum(tile[s], 0)

  grid_spec = pltpu.PrefetchScalarGridSpec(
    num_scalar_prefetch=2,
    grid=(N // tile_n, K // tile_k, group_S.shape[0]),
    in_specs=[
      pl.BlockSpec((tile_n, TILE), lambda n, k, s, group, tile: (n, rows(s, tile))),
      pl.BlockSpec((1, 1, tile_n), lambda n, k, s, group, tile: (rows(s, tile), 0, n)),
      pl.BlockSpec((tile_k, TILE), lambda n, k, s, group, tile: (k, rows(s, tile))),
      pl.BlockSpec((1, 1, tile_k), lambda n, k, s, group, tile: (rows(s, tile), 0, k)),
    ],
    out_specs=pl.BlockSpec((1, tile_n, tile_k), lambda n, k, s, group, tile: (group[s], n, k)),
  )
  out_shape = jax.ShapeDtypeStruct((layout.groups, N, K), jnp.float32)
  return pl.pallas_call(
    _k_kernel,
    grid_spec=grid_spec,
    out_shape=out_shape,
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
    cost_estimate=_cost(M, N, K, a_NM, b_KM, out_bytes=out_shape.size * 4),
    name="k_grouped_fp8",
    interpret=interpret,
  )(group_S, tile_S, a_NM, a_scale_TN[:, None], b_KM, b_scale_TK[:, None])


def steps(layout: Layout) -> tuple[jax.Array, jax.Array]:
  """The group and tile of each step of `k_grouped`; tile -1 adds nothing.

  Every group has a step, so that its block of the result is written.
  """
  tiles_G = jnp.diff(layout.edge_H)
  ends_G = jnp.cumsum(jnp.maximum(tiles_G, 1), dtype=jnp.int32)
  most = layout.row_R.shape[0] // TILE + layout.groups  # however the choices fall
  step_S = jnp.arange(most, dtype=jnp.int32)
  group_S = jnp.searchsorted(ends_G, step_S, side="right").astype(jnp.int32)
  group_S = jnp.minimum(group_S, layout.groups - 1)
  within_S = step_S - (ends_G - jnp.maximum(tiles_G, 1))[group_S]
  tile_S = jnp.where(within_S < tiles_G[group_S], layout.edge_H[group_S] + within_S, -1)
  return group_S, tile_S


def _k_kernel(group_S, tile_S, a_NR, a_scale_11N, b_KR, b_scale_11K, y_1NK) -> None:
  """One tile of rows of one block of a group's product, added to the block itself."""
  s = pl.program_id(2)

  @pl.when((s == 0) | (group_S[s] != group_S[jnp.maximum(s - 1, 0)]))
  def _():
    start(y_1NK)

  @pl.when(tile_S[s] >= 0)
  def _():
    a, b = a_NR[...].astype(tpu_dtype()), b_KR[...].astype(tpu_dtype())
    sum_NK = jax.lax.dot_general(a, b, _NT, preferred_element_type=jnp.float32)
    y_1NK[0] += sum_NK * (a_scale_11N[0].T * b_scale_11K[0])


def _cost(M: int, N: int, K: int, a, b, out_bytes: int) -> pl.CostEstimate:
  """If every row were in use; how many are is known only at run time."""
  bytes_accessed = a.size + b.size + out_bytes
  return pl.CostEstimate(flops=2 * M * N * K, transcendentals=0, bytes_accessed=bytes_accessed)
