"""The block-scaled product on TPUs: FP8 in HBM and VMEM, scales applied to sums of 128 of K.

v7's matrix unit takes E4M3; for v5 and v6 the values become bfloat16 in VMEM, which is exact. Each
sum over 128 of K is scaled and added in float32, so that every chip computes the reference's
result. On v6 and v7 that fills half of the matrix unit's 256 rows: scaling the operands before a
wider product would fill it, and round them to bfloat16 once more.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import configs
from pallas_kernels.configs import questions
from pallas_kernels.dispatch import require
from pallas_kernels.fp8.formats import TILE, fitted
from pallas_kernels.fp8.operands import tpu_dtype


@dataclasses.dataclass(frozen=True)
class Tiles:
  """How a product is cut: multiples of 128, lowered to what divides the shapes."""

  rows: int = 512
  columns: int = 512
  depth: int = 1024

  def __post_init__(self) -> None:
    configs.check_fields(self, rows=TILE, columns=TILE, depth=TILE)

  def fitted(self, M: int, N: int, K: int) -> "Tiles":
    """The largest multiples of 128 up to these that divide the shapes."""
    return Tiles(fitted(M, self.rows), fitted(N, self.columns), fitted(K, self.depth))


def matmul(
  x_MK: jax.Array,
  x_scale: jax.Array,
  w_NK: jax.Array,
  w_scale: jax.Array,
  *,
  out_dtype: jnp.dtype = jnp.bfloat16,
  tiles: Tiles | None = None,
  interpret: Any = False,
) -> jax.Array:
  """x . w^T; arguments as in `ref.matmul`; tiles are the device's where none are given.

  Raises:
    Unsupported: a shape is no multiple of 128.
  """
  (M, K), N = x_MK.shape, w_NK.shape[0]
  whole = not (M % TILE or N % TILE or K % TILE)
  require(whole, f"the product of {M}x{K} and {N}x{K} is not made of tiles of 128.")
  by_blocks = w_scale.shape == (N // TILE, K // TILE)
  tiles = tiles or questions.product(Tiles(), M, N, K, by_blocks=by_blocks)
  tiles = tiles.fitted(M, N, K)
  steps = K // TILE
  if by_blocks:
    w_scale_spec = pl.BlockSpec(memory_space=pltpu.SMEM)
  else:
    w_scale_spec = pl.BlockSpec((steps, tiles.columns), lambda i, j, k: (0, j))
  return pl.pallas_call(
    functools.partial(_kernel, tiles=tiles, by_blocks=by_blocks),
    grid=(M // tiles.rows, N // tiles.columns, K // tiles.depth),
    in_specs=[
      pl.BlockSpec((tiles.rows, tiles.depth), lambda i, j, k: (i, k)),
      pl.BlockSpec((steps, tiles.rows), lambda i, j, k: (0, i)),
      pl.BlockSpec((tiles.columns, tiles.depth), lambda i, j, k: (j, k)),
      w_scale_spec,
    ],
    out_specs=pl.BlockSpec((tiles.rows, tiles.columns), lambda i, j, k: (i, j)),
    out_shape=jax.ShapeDtypeStruct((M, N), out_dtype),
    scratch_shapes=[pltpu.VMEM((tiles.rows, tiles.columns), jnp.float32)],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
    cost_estimate=_cost(M, N, K, tiles, jnp.dtype(out_dtype).itemsize),
    interpret=interpret,
  )(x_MK, x_scale, w_NK, w_scale)


def _cost(M: int, N: int, K: int, tiles: Tiles, out_bytes: int) -> pl.CostEstimate:
  """Operands are read once per tile row or column, the result is written once."""
  read = M * K * (N // tiles.columns) + N * K * (M // tiles.rows)
  return pl.CostEstimate(
    flops=2 * M * N * K, bytes_accessed=read + M * N * out_bytes, transcendentals=0
  )


def _kernel(x_ref, x_scale_ref, w_ref, w_scale_ref, out_ref, total_ref, *, tiles, by_blocks):
  step = pl.program_id(2)

  @pl.when(step == 0)
  def _():
    _clear(total_ref)

  operand = tpu_dtype()
  for t in range(tiles.depth // TILE):
    columns = slice(t * TILE, (t + 1) * TILE)
    tile = step * (tiles.depth // TILE) + t
    x, w = x_ref[:, columns].astype(operand), w_ref[:, columns].astype(operand)
    part = lax.dot_general(x, w, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    w_scale = _block_row(w_scale_ref, tile, tiles) if by_blocks else w_scale_ref[tile]
    total_ref[...] = _promote(total_ref[...], part, x_scale_ref[tile], w_scale)

  @pl.when(step == pl.num_programs(2) - 1)
  def _():
    out_ref[...] = total_ref[...].astype(out_ref.dtype)


def _clear(total_ref) -> None:
  total_ref[...] = jnp.zeros_like(total_ref)


def _block_row(scale_ref, tile, tiles: Tiles) -> jax.Array:
  """The scale of each column's block [columns] at 128 of K."""
  bands = tiles.columns // TILE
  first = pl.program_id(1) * bands
  return jnp.concatenate([jnp.full((TILE,), scale_ref[first + b, tile]) for b in range(bands)])


def _promote(total, part, x_scale_M, w_scale_N) -> jax.Array:
  """Adds 128 of K, scaled, in float32."""
  return total + part * (x_scale_M[:, None] * w_scale_N[None, :])
