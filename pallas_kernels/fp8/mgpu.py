"""Quantisation on Hopper: a warpgroup per tile, read and written through TMA.

Each block of the grid takes one tile, and several blocks share a multiprocessor, so that one's
loads run under another's arithmetic. Columns are read from shared memory transposed, as the tensor
core's layout of them, so that a thread's maximum is over a row there too. On a device the division
by a scale is good to 2 units in the last place; it is exact for powers of two.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.fp8.formats import E4M3, TILE, cast, float32, require_blocks, scale_of, swiglu
from pallas_kernels.hopper import publish, require_mgpu, swizzled

HEIGHT = 64  # rows of a tile: of the input, or for columns of the output


class _Output(NamedTuple):
  """An array that a kernel writes, and what of it a block of the grid makes in shared memory."""

  shape: tuple[int, int]
  tile: tuple[int, int] | None
  dtype: jnp.dtype = jnp.float32


def quantize_rows(
  x_MK: jax.Array, *, power_of_two: bool = False, interpret: Any = None
) -> tuple[jax.Array, jax.Array]:
  """As `ref.quantize_rows`."""
  return _rows(float32, (x_MK,), power_of_two, interpret)


def swiglu_quantize(
  gate_MF: jax.Array, up_MF: jax.Array, *, power_of_two: bool = False, interpret: Any = None
) -> tuple[jax.Array, jax.Array]:
  """As `ref.swiglu_quantize`; the hidden activations never leave the registers."""
  return _rows(swiglu, (gate_MF, up_MF), power_of_two, interpret)


def quantize_columns(
  x_MK: jax.Array, *, power_of_two: bool = False, interpret: Any = None
) -> tuple[jax.Array, jax.Array]:
  """As `ref.quantize_columns`."""
  M, K = x_MK.shape

  def body(x_gmem, values_gmem, scale_gmem, x_smem, values_smem, scale_smem, loaded):
    rows = pl.ds(lax.axis_index("m") * TILE, TILE)
    columns = pl.ds(lax.axis_index("k") * HEIGHT, HEIGHT)
    _load(loaded, (x_gmem.at[rows, columns], x_smem))
    values_smem[...], scale_smem[0] = _quantized(_read(x_smem.T), power_of_two)
    _store(
      (values_smem, values_gmem.at[columns, rows]),
      (scale_smem, scale_gmem.at[pl.ds(lax.axis_index("m"), 1), columns]),
    )

  outputs = _Output((K, M), (HEIGHT, TILE), E4M3), _Output((M // TILE, K), (1, HEIGHT))
  grid = {"m": M // TILE, "k": K // HEIGHT}
  values, scale = _run(body, (x_MK,), grid, (TILE, HEIGHT), outputs, interpret)
  return values, scale


def quantize_both(
  x_MK: jax.Array, *, power_of_two: bool = False, interpret: Any = None
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """As `ref.quantize_both`, with one reading of the input."""
  M, K = x_MK.shape

  def body(x_gmem, *refs):
    gmem, x_smem, smem, loaded = refs[:4], refs[4], refs[5:9], refs[9]
    m, k = lax.axis_index("m"), lax.axis_index("k")
    rows, columns = pl.ds(m * TILE, TILE), pl.ds(k * TILE, TILE)
    _load(loaded, (x_gmem.at[rows, columns], x_smem))
    for half in (pl.ds(0, HEIGHT), pl.ds(HEIGHT, HEIGHT)):  # what the registers hold
      smem[0][half], smem[1][0, half] = _quantized(_read(x_smem.at[half]), power_of_two)
      across = _read(x_smem.at[:, half].T)
      smem[2][half], smem[3][0, half] = _quantized(across, power_of_two)
    places = (rows, columns), (pl.ds(k, 1), rows), (columns, rows), (pl.ds(m, 1), columns)
    _store(*((tile, array.at[place]) for tile, array, place in zip(smem, gmem, places)))

  square, line = (TILE, TILE), (1, TILE)
  outputs = (
    _Output((M, K), square, E4M3),
    _Output((K // TILE, M), line),
    _Output((K, M), square, E4M3),
    _Output((M // TILE, K), line),
  )
  grid = {"m": M // TILE, "k": K // TILE}
  rows, row_scale, columns, column_scale = _run(body, (x_MK,), grid, square, outputs, interpret)
  return (rows, row_scale), (columns, column_scale)


def quantize_blocks(
  w_NK: jax.Array, *, power_of_two: bool = False, interpret: Any = None
) -> tuple[jax.Array, jax.Array]:
  """As `ref.quantize_blocks`."""
  N, K = w_NK.shape

  def body(w_gmem, values_gmem, scale_gmem, w_smem, values_smem, loaded):
    row, column = lax.axis_index("n"), lax.axis_index("k")
    block = pl.ds(row * TILE, TILE), pl.ds(column * TILE, TILE)
    _load(loaded, (w_gmem.at[block], w_smem))
    w = _read(w_smem)
    scale_of_rows = scale_of(jnp.max(jnp.abs(w), axis=1), power_of_two)
    scale = jnp.max(scale_of_rows)  # scales grow with the maxima; scalars have no bits here
    values_smem[...] = cast(w / scale)
    scale_gmem[row, column] = scale
    _store((values_smem, values_gmem.at[block]))

  outputs = _Output((N, K), (TILE, TILE), E4M3), _Output((N // TILE, K // TILE), None)
  grid = {"n": N // TILE, "k": K // TILE}
  values, scale = _run(body, (w_NK,), grid, (TILE, TILE), outputs, interpret)
  return values, scale


def _rows(
  value: Callable[..., jax.Array],
  inputs: tuple[jax.Array, ...],
  power_of_two: bool,
  interpret: Any,
) -> tuple[jax.Array, jax.Array]:
  """1x128 tiles of what `value` makes of tiles of the inputs [M, K]."""
  M, K = inputs[0].shape

  def body(*refs):
    *in_gmem, values_gmem, scale_gmem = refs[: len(inputs) + 2]
    *in_smem, values_smem, scale_smem, loaded = refs[len(inputs) + 2 :]
    rows = pl.ds(lax.axis_index("m") * HEIGHT, HEIGHT)
    columns = pl.ds(lax.axis_index("k") * TILE, TILE)
    _load(loaded, *((gmem.at[rows, columns], smem) for gmem, smem in zip(in_gmem, in_smem)))
    values_smem[...], scale_smem[0] = _quantized(value(*map(_read, in_smem)), power_of_two)
    _store(
      (values_smem, values_gmem.at[rows, columns]),
      (scale_smem, scale_gmem.at[pl.ds(lax.axis_index("k"), 1), rows]),
    )

  outputs = _Output((M, K), (HEIGHT, TILE), E4M3), _Output((K // TILE, M), (1, HEIGHT))
  grid = {"m": M // HEIGHT, "k": K // TILE}
  values, scale = _run(body, inputs, grid, (HEIGHT, TILE), outputs, interpret)
  return values, scale


def _run(
  body: Callable[..., None],
  inputs: tuple[jax.Array, ...],
  grid: dict[str, int],
  tile: tuple[int, int],
  outputs: tuple[_Output, ...],
  interpret: Any,
) -> list[jax.Array]:
  """Runs `body` on a grid, with its arrays and then buffers of their tiles and a barrier.

  Raises:
    Unsupported: jax is too old, or the inputs are not alike or not made of tiles.
  """
  require_mgpu()
  require_blocks(*inputs)
  buffers = [plgpu.SMEM(tile, x.dtype, transforms=swizzled(x.dtype)) for x in inputs]
  for out in outputs:
    if out.tile is not None:
      transforms = swizzled(E4M3) if out.dtype == E4M3 else ()
      buffers.append(plgpu.SMEM(out.tile, out.dtype, transforms=transforms))
  run = plgpu.kernel(
    body,
    out_type=[jax.ShapeDtypeStruct(out.shape, out.dtype) for out in outputs],
    grid=tuple(grid.values()),
    grid_names=tuple(grid),
    scratch_types=[*buffers, plgpu.Barrier(num_arrivals=len(inputs))],
    compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
    interpret=interpret,
  )
  return run(*inputs)


def _read(smem) -> jax.Array:
  """A tile in float32 registers, each row's elements in four threads."""
  return float32(plgpu.layout_cast(smem[...], plgpu.Layout.WGMMA))


def _quantized(x: jax.Array, power_of_two: bool) -> tuple[jax.Array, jax.Array]:
  """A tile's values and the scale of each of its rows."""
  scale = scale_of(jnp.max(jnp.abs(x), axis=1), power_of_two)
  return cast(x / lax.broadcast_in_dim(scale, x.shape, (0,))), scale


def _load(barrier, *copies) -> None:
  for gmem, smem in copies:
    plgpu.copy_gmem_to_smem(gmem, smem, barrier)
  _await_loads(barrier)


def _await_loads(barrier) -> None:
  plgpu.barrier_wait(barrier)


def _store(*copies) -> None:
  publish()
  for smem, gmem in copies:
    plgpu.copy_smem_to_gmem(smem, gmem)
  plgpu.wait_smem_to_gmem(0)
