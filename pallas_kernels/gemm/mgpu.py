"""The block-scaled product on Hopper: TMA, warpgroup matmuls of E4M3, promotion every 128 of K.

One warpgroup loads, the others each own 64 rows of the tile. Per 128 of K a warpgroup's tensor core
sums into fresh registers, four instructions of 32 each; the sum is scaled and added to the float32
total there and then, since Hopper's FP8 accumulators keep about 14 bits. The grid is one block per
multiprocessor and walks the tiles in a planar snake, so that blocks at work together share operands
in L2. A tile of 64x128 per warpgroup is the widest whose total and partial sums fit the registers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import configs
from pallas_kernels.configs import questions
from pallas_kernels.dispatch import require
from pallas_kernels.fp8.formats import E4M3, TILE
from pallas_kernels.hopper import await_stores, fence_reads, persistent, product, publish, swizzled


@dataclasses.dataclass(frozen=True)
class Tiles:
  """How a product is cut.

  Attributes:
    rows: of one warpgroup; 64 is an instruction's height.
    columns: of the tile, at most 128, so that a tile meets one block scale per 128 of K.
    warpgroups: that multiply, one below the other.
    stages: steps of 128 along K in flight.
    snake_axis: the axis that the walk over tiles goes along first, 0 for rows.
    snake_width: tiles across the snake.
  """

  rows: int = 64
  columns: int = 128
  warpgroups: int = 2
  stages: int = 4
  snake_axis: int = 1
  snake_width: int = 8

  def __post_init__(self) -> None:
    configs.check_fields(self, rows=64, columns=8, warpgroups=1, stages=1, snake_width=1)
    if self.snake_axis not in (0, 1):
      raise ValueError(f"snake_axis is {self.snake_axis!r}, neither 0 nor 1.")

  @property
  def height(self) -> int:
    return self.rows * self.warpgroups


def matmul(
  x_MK: jax.Array,
  x_scale: jax.Array,
  w_NK: jax.Array,
  w_scale: jax.Array,
  *,
  out_dtype: jnp.dtype = jnp.bfloat16,
  tiles: Tiles | None = None,
  interpret: Any = None,
) -> jax.Array:
  """x . w^T; arguments as in `ref.matmul`; tiles are the device's where none are given.

  Raises:
    Unsupported: jax is too old, or the tiles do not divide the shapes.
  """
  (M, K), N = x_MK.shape, w_NK.shape[0]
  by_blocks = w_scale.shape == (N // TILE, K // TILE)
  tiles = tiles or questions.product(Tiles(), M, N, K, by_blocks=by_blocks)
  require(
    not (M % tiles.height or N % tiles.columns or K % TILE),
    f"the product of {M}x{K} and {N}x{K} is not made of tiles of "
    f"{tiles.height}x{tiles.columns}x{TILE}.",
  )
  kernel = functools.partial(_kernel, tiles=tiles, by_blocks=by_blocks)
  out_type = jax.ShapeDtypeStruct((M, N), out_dtype)
  return persistent(kernel, out_type, tiles.warpgroups, interpret)(x_MK, x_scale, w_NK, w_scale)


def _kernel(x_gmem, x_scale_gmem, w_gmem, w_scale_gmem, out_gmem, *, tiles: Tiles, by_blocks: bool):
  """Walks the tiles of one block of the grid; buffers and barriers live as long as it."""
  pipeline = functools.partial(_pipeline, tiles, x_gmem.shape[1] // TILE, by_blocks)
  inputs = (x_gmem, x_scale_gmem, w_gmem) + (() if by_blocks else (w_scale_gmem,))
  grid = out_gmem.shape[0] // tiles.height, out_gmem.shape[1] // tiles.columns
  alone = grid[0] * grid[1] < 2 * lax.axis_size("processor")  # some block has one tile, or none

  @functools.partial(
    pl.run_scoped,
    allocations=pipeline(lambda *_: None, lambda *_: None, None).get_allocations(*inputs),
    out_smem=plgpu.SMEM(
      (tiles.warpgroups, tiles.rows, tiles.columns),
      out_gmem.dtype,
      transforms=swizzled(out_gmem.dtype, tiles.columns),
    ),
    collective_axes="warpgroup",
  )
  def _(allocations, out_smem):
    @plgpu.nd_loop((grid[0] * grid[1],), collective_axes="processor")
    def _(loop):
      row, column = plgpu.planar_snake(loop.index[0], grid, tiles.snake_axis, tiles.snake_width)
      rows = pl.ds(row * tiles.height, tiles.height)
      columns = pl.ds(column * tiles.columns, tiles.columns)
      scale = functools.partial(_block_scale, w_scale_gmem, column * tiles.columns)
      step = functools.partial(_step, tiles, scale if by_blocks else None)
      context = functools.partial(_tile, tiles, out_smem, out_gmem.at[rows, columns])
      slices = [x_gmem.at[rows], x_scale_gmem.at[:, rows], w_gmem.at[columns]]
      if not by_blocks:
        slices.append(w_scale_gmem.at[:, columns])
      place = None if alone else _place(loop)
      pipeline(step, context, place)(*slices, allocations=allocations)

  plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _pipeline(
  tiles: Tiles,
  steps: int,
  by_blocks: bool,
  step: Callable[..., Any],
  context: Callable[..., Any],
  place: jax.Array | None,
):
  """The steps along K of a tile, each of 128: what they load, and whether ahead of the next tile.

  Where all stages are used equally often, loads run on from a tile into the next: the tensor core
  does not wait for them at the start of each.
  """
  wide = swizzled(E4M3)
  specs = [
    plgpu.BlockSpec((tiles.height, TILE), lambda k: (0, k), transforms=wide),
    plgpu.BlockSpec((1, tiles.height), lambda k: (k, 0)),
    plgpu.BlockSpec((tiles.columns, TILE), lambda k: (0, k), transforms=wide),
  ]
  if not by_blocks:
    specs.append(plgpu.BlockSpec((1, tiles.columns), lambda k: (k, 0)))
  return plgpu.emit_pipeline_warp_specialized(
    step,
    grid=(steps,),
    memory_registers=40,
    in_specs=specs,
    wg_axis="warpgroup",
    num_compute_wgs=tiles.warpgroups,
    max_concurrent_steps=tiles.stages,
    compute_context=context,
    pipeline_state=None if steps % tiles.stages else place,
  )


def _place(loop: plgpu.NDLoopInfo) -> jax.Array:
  """Where a tile stands among its block's, which are two at least."""
  states = plgpu.PipelinePipeline
  assert loop.num_local_steps is not None
  last = loop.local_index == loop.num_local_steps - 1
  later = jnp.where(last, states.STOP.value, states.STEADY.value)
  return jnp.where(loop.local_index == 0, states.START.value, later)


def _tile(tiles: Tiles, out_smem, out_gmem, along_k: Callable[[jax.Array], jax.Array]) -> None:
  """One warpgroup's part of a tile: its total over K, stored through shared memory."""
  mine = lax.axis_index("warpgroup")
  total = along_k(_nothing((tiles.rows, tiles.columns)))
  await_stores()  # of the tile before
  out_smem[mine] = total.astype(out_gmem.dtype)
  publish()
  plgpu.copy_smem_to_gmem(out_smem.at[mine], out_gmem.at[pl.ds(mine * tiles.rows, tiles.rows)])


def _step(tiles: Tiles, block_scale, index, x_smem, x_scale_smem, w_smem, *rest):
  """Adds 128 of K to the total. The scales are read while the operands' product is made."""
  *w_scale_smem, total = rest
  rows = pl.ds(lax.axis_index("warpgroup") * tiles.rows, tiles.rows)
  x_scale = lax.broadcast_in_dim(x_scale_smem[0, rows], total.shape, (0,))
  if block_scale is None:
    w_scale = lax.broadcast_in_dim(w_scale_smem[0][0], total.shape, (1,))
  else:
    w_scale = block_scale(index[0])
  fence_reads()  # of the scales
  return _promote(total, product(x_smem.at[rows], w_smem.T), x_scale * w_scale)


def _nothing(shape: tuple[int, int]) -> jax.Array:
  """The total before the first step, in the layout of the tensor core's sums."""
  return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), plgpu.Layout.WGMMA)


def _block_scale(w_scale_gmem, column, step) -> jax.Array:
  """The scale of the block that a tile from this column on meets at a step along K."""
  return w_scale_gmem[column // TILE, step]


def _promote(total: jax.Array, part: jax.Array, scale: jax.Array) -> jax.Array:
  """A step's sum leaves the tensor core's precision."""
  return total + part * scale
