"""Grouped matmuls of FP8 operands on Hopper, in Mosaic GPU.

A persistent block per multiprocessor walks over the output's tiles of 128x128. One warpgroup
fetches blocks of 128 of the contraction by TMA, two multiply 64 rows each with wgmma. The tensor
core's sum over 128 is scaled and added up in float32 registers: inside, it keeps about 14 bits.
wgmma takes FP8 operands with the contraction last, so both matmuls are of the form a b^T.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import configs
from pallas_kernels.configs import questions
from pallas_kernels.fp8.formats import E4M3, TILE
from pallas_kernels.grouped.layout import Layout
from pallas_kernels.hopper import await_stores, fence_reads, persistent, product, publish, swizzled

WARPGROUPS = 2  # that multiply; a third one fetches
ROWS = TILE // WARPGROUPS  # of an output tile that a warpgroup makes: one wgmma's 64
_MEMORY_REGISTERS = 40  # of a thread that only fetches


@dataclasses.dataclass(frozen=True)
class Tiles:
  """How the work is cut.

  Attributes:
    stages: blocks of the contraction in flight, 33 KiB of shared memory each.
    snake: columns of output tiles that are walked together, for the sake of the L2 cache.
  """

  stages: int = 4
  snake: int = 8

  def __post_init__(self) -> None:
    configs.check_fields(self, stages=1, snake=1)


def m_grouped(
  a_MK: jax.Array,
  a_scale_CM: jax.Array,
  b_GNK: jax.Array,
  b_scale_GNK: jax.Array,
  layout: Layout,
  *,
  out_dtype: jnp.dtype,
  tiles: Tiles | None = None,
  interpret: Any = None,
) -> jax.Array:
  """As ref.m_grouped."""
  M, (G, N, K) = a_MK.shape[0], b_GNK.shape
  tiles = tiles or questions.m_grouped(Tiles(), M, G, N, K)
  out_type = jax.ShapeDtypeStruct((M, N), out_dtype)
  kernel = persistent(functools.partial(_m_kernel, tiles=tiles), out_type, WARPGROUPS, interpret)
  return kernel(layout.group_T, a_MK, a_scale_CM, b_GNK, b_scale_GNK)


def _m_kernel(group_T, a, a_scale, b, b_scale, y, *, tiles: Tiles) -> None:
  grid, steps = (y.shape[0] // TILE, y.shape[1] // TILE), a.shape[1] // TILE
  blocks = _operand, _scale, _operand
  pipeline = functools.partial(_pipeline, blocks, min(tiles.stages, steps), steps)
  buffers = pipeline().get_allocations(a, a_scale, b.at[0])

  def walk(place, buffers, out):
    t, n = plgpu.planar_snake(place[0], grid, 1, tiles.snake)
    rows, columns = pl.ds(t * TILE + _first(), ROWS), pl.ds(n * TILE, TILE)
    group, store = group_of(group_T, t), _storing(out, y.at[rows, columns])

    @pl.when(group >= 0)
    def _():
      maps = (lambda c: (t, c), lambda c: (c, t), lambda c: (n, c))
      step = functools.partial(_m_step, b_scale, group, n)
      pipeline(maps, step, store)(a, a_scale, b.at[group], allocations=buffers)

    @pl.when((group < 0) & (lax.axis_index("warpgroup") < WARPGROUPS))
    def _():
      store(lambda zeros: zeros)

  _walk_all(walk, (grid[0] * grid[1],), buffers, y.dtype)


def _m_step(b_scale, group, n, index, a_block, a_scale_block, b_block, acc) -> jax.Array:
  """Adds 128 of the contraction. Scales are read first, to arrive while the product is made."""
  a_scale_R, block_scale = a_scale_block[0, _mine()], b_scale[block_of(group, n, index[0])]
  fence_reads()
  part = product(a_block.at[_mine()], b_block.T)
  return acc + part * _along(a_scale_R * block_scale, 0)


def k_grouped(
  a_NM: jax.Array,
  a_scale_TN: jax.Array,
  b_KM: jax.Array,
  b_scale_TK: jax.Array,
  layout: Layout,
  *,
  tiles: Tiles | None = None,
  interpret: Any = None,
) -> jax.Array:
  """As ref.k_grouped; a group's contraction has as many steps as it has tiles of rows."""
  (N, M), K = a_NM.shape, b_KM.shape[0]
  tiles = tiles or questions.k_grouped(Tiles(), M, layout.groups, N, K)
  out_type = jax.ShapeDtypeStruct((layout.groups, N, K), jnp.float32)
  kernel = persistent(functools.partial(_k_kernel, tiles=tiles), out_type, WARPGROUPS, interpret)
  return kernel(layout.edge_H, a_NM, a_scale_TN, b_KM, b_scale_TK)


def _k_kernel(edge_H, a, a_scale, b, b_scale, y, *, tiles: Tiles) -> None:
  groups, grid, most = y.shape[0], (y.shape[1] // TILE, y.shape[2] // TILE), a.shape[1] // TILE
  blocks = _operand, _scale, _operand, _scale
  pipeline = functools.partial(_pipeline, blocks, min(tiles.stages, most))
  buffers = pipeline(most).get_allocations(a, a_scale, b, b_scale)

  def walk(place, buffers, out):
    group, (n, k) = place[0], plgpu.planar_snake(place[1], grid, 1, tiles.snake)
    first, end = edge_H[group], edge_H[group + 1]
    maps = (
      lambda s: (n, first + s),
      lambda s: (first + s, n),
      lambda s: (k, first + s),
      lambda s: (first + s, k),
    )
    rows, columns = pl.ds(n * TILE + _first(), ROWS), pl.ds(k * TILE, TILE)
    run = pipeline(end - first, maps, _k_step, _storing(out, y.at[group, rows, columns]))
    run(a, a_scale, b, b_scale, allocations=buffers)

  _walk_all(walk, (groups, grid[0] * grid[1]), buffers, y.dtype)


def _k_step(_, a_block, a_scale_block, b_block, b_scale_block, acc) -> jax.Array:
  """Adds 128 rows of a group."""
  a_scale_R, b_scale_K = a_scale_block[0, _mine()], b_scale_block[0]
  fence_reads()
  part = product(a_block.at[_mine()], b_block.T)
  return acc + part * (_along(a_scale_R, 0) * _along(b_scale_K, 1))


def group_of(group_T: jax.Array, t: jax.Array) -> jax.Array:
  """The group of a tile."""
  return group_T[t]


def block_of(group: jax.Array, n: jax.Array, chunk: jax.Array) -> tuple[jax.Array, ...]:
  """Where the scale of a block of b stands."""
  return group, n, chunk


def start() -> jax.Array:
  """A sum's first value."""
  return jnp.zeros((ROWS, TILE), jnp.float32)


def _first() -> jax.Array:
  """The first of this warpgroup's rows in a tile."""
  return lax.axis_index("warpgroup") * ROWS


def _mine() -> Any:
  return pl.ds(_first(), ROWS)


def _along(scale: jax.Array, axis: int) -> jax.Array:
  """Scales of a tile's rows (axis 0) or columns, for each of its elements."""
  return lax.broadcast_in_dim(scale, (ROWS, TILE), (axis,))


def _operand(index_map: Callable) -> plgpu.BlockSpec:
  """A 128x128 block of values, laid out for TMA and wgmma."""
  return plgpu.BlockSpec(
    (TILE, TILE), index_map, transforms=swizzled(E4M3), memory_space=plgpu.SMEM
  )


def _scale(index_map: Callable) -> plgpu.BlockSpec:
  """The 128 scales of a block's rows."""
  return plgpu.BlockSpec((1, TILE), index_map, memory_space=plgpu.SMEM)


def _pipeline(
  blocks: Sequence[Callable],
  stages: int,
  steps: int | jax.Array,
  maps: Sequence[Callable] | None = None,
  step: Any = None,
  store: Callable | None = None,
) -> Any:
  """Fetches and multiplies for one output tile; with `steps` alone it tells its allocations."""
  maps = maps or [lambda s: (s, s)] * len(blocks)
  return plgpu.emit_pipeline_warp_specialized(
    step,
    grid=(steps,),
    in_specs=[block(index_map) for block, index_map in zip(blocks, maps, strict=True)],
    max_concurrent_steps=stages,
    compute_context=store,
    wg_axis="warpgroup",
    num_compute_wgs=WARPGROUPS,
    memory_registers=_MEMORY_REGISTERS,
  )


def _storing(out: Any, y_tile: Any) -> Callable[[Callable], None]:
  """Sums a tile up and sends it off; its copy is awaited before the next one is staged."""

  def store(sum_up: Callable[[jax.Array], jax.Array]) -> None:
    acc = sum_up(start())
    mine = out.at[lax.axis_index("warpgroup")]
    await_stores()
    mine[...] = acc.astype(out.dtype)
    publish()
    plgpu.copy_smem_to_gmem(mine, y_tile)

  return store


def _walk_all(walk: Callable, grid: tuple[int, ...], buffers: Any, out_dtype: Any) -> None:
  """Runs `walk` over this processor's share of the grid, on buffers that all its tiles use."""
  staging = plgpu.SMEM((WARPGROUPS, ROWS, TILE), out_dtype, transforms=swizzled(out_dtype))

  @functools.partial(pl.run_scoped, buffers=buffers, out=staging, collective_axes="warpgroup")
  def _(buffers, out):
    @plgpu.nd_loop(grid, collective_axes="processor")
    def _(loop):
      walk(loop.index, buffers, out)

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
