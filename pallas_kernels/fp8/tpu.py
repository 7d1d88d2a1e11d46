"""Quantisation on TPUs: tiles in VMEM, all scales of a stripe kept there until it is done.

Scales lie with tokens (or columns) on the lanes; a stripe's are one block of the output that the
steps of the grid along the stripe fill row by row.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.fp8.formats import (
  E4M3,
  TILE,
  cast,
  fitted,
  float32,
  require_blocks,
  scale_of,
  swiglu,
)

HEIGHT, WIDTH = 512, 1024  # of a tile at most; multiples of 128 that divide the shape


def quantize_rows(
  x_MK: jax.Array, *, power_of_two: bool = False, interpret: Any = False
) -> tuple[jax.Array, jax.Array]:
  """As `ref.quantize_rows`."""
  return _rows(float32, (x_MK,), power_of_two, interpret)


def swiglu_quantize(
  gate_MF: jax.Array, up_MF: jax.Array, *, power_of_two: bool = False, interpret: Any = False
) -> tuple[jax.Array, jax.Array]:
  """As `ref.swiglu_quantize`; the hidden activations stay in VMEM."""
  return _rows(swiglu, (gate_MF, up_MF), power_of_two, interpret)


def quantize_columns(
  x_MK: jax.Array, *, power_of_two: bool = False, interpret: Any = False
) -> tuple[jax.Array, jax.Array]:
  """As `ref.quantize_columns`."""
  M, K = x_MK.shape
  require_blocks(x_MK)
  width, height = fitted(K, WIDTH), fitted(M, HEIGHT)
  return pl.pallas_call(
    functools.partial(_columns_kernel, power_of_two=power_of_two),
    grid=(K // width, M // height),
    in_specs=[pl.BlockSpec((height, width), lambda k, m: (m, k))],
    out_specs=[
      pl.BlockSpec((width, height), lambda k, m: (k, m)),
      pl.BlockSpec((M // TILE, width), lambda k, m: (0, k)),
    ],
    out_shape=[
      jax.ShapeDtypeStruct((K, M), E4M3),
      jax.ShapeDtypeStruct((M // TILE, K), jnp.float32),
    ],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    interpret=interpret,
  )(x_MK)


def quantize_both(
  x_MK: jax.Array, *, power_of_two: bool = False, interpret: Any = False
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """As `ref.quantize_both`, in two kernels: their stripes of scales lie across each other."""
  rows = quantize_rows(x_MK, power_of_two=power_of_two, interpret=interpret)
  return rows, quantize_columns(x_MK, power_of_two=power_of_two, interpret=interpret)


def quantize_blocks(
  w_NK: jax.Array, *, power_of_two: bool = False, interpret: Any = False
) -> tuple[jax.Array, jax.Array]:
  """As `ref.quantize_blocks`."""
  N, K = w_NK.shape
  require_blocks(w_NK)
  width, height = fitted(K, WIDTH), fitted(N, HEIGHT)
  return pl.pallas_call(
    functools.partial(_blocks_kernel, power_of_two=power_of_two),
    grid=(N // height, K // width),
    in_specs=[pl.BlockSpec((height, width), lambda n, k: (n, k))],
    out_specs=[
      pl.BlockSpec((height, width), lambda n, k: (n, k)),
      pl.BlockSpec(memory_space=pltpu.SMEM),
    ],
    out_shape=[
      jax.ShapeDtypeStruct((N, K), E4M3),
      jax.ShapeDtypeStruct((N // TILE, K // TILE), jnp.float32),
    ],
    # Two cores would each fill a part of their own copy of the scales.
    compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary", "arbitrary")),
    interpret=interpret,
  )(w_NK)


def _rows(
  value: Callable[..., jax.Array],
  inputs: tuple[jax.Array, ...],
  power_of_two: bool,
  interpret: Any,
) -> tuple[jax.Array, jax.Array]:
  """1x128 tiles of what `value` makes of tiles of the inputs [M, K]."""
  M, K = inputs[0].shape
  require_blocks(*inputs)
  width, height = fitted(K, WIDTH), fitted(M, HEIGHT)
  tile = pl.BlockSpec((height, width), lambda m, k: (m, k))
  return pl.pallas_call(
    functools.partial(_rows_kernel, value=value, power_of_two=power_of_two),
    grid=(M // height, K // width),
    in_specs=[tile] * len(inputs),
    out_specs=[tile, pl.BlockSpec((K // TILE, height), lambda m, k: (0, m))],
    out_shape=[
      jax.ShapeDtypeStruct((M, K), E4M3),
      jax.ShapeDtypeStruct((K // TILE, M), jnp.float32),
    ],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    interpret=interpret,
  )(*inputs)


def _rows_kernel(*refs, value, power_of_two):
  *in_refs, values_ref, scale_ref = refs
  tiles = values_ref.shape[1] // TILE
  for t in range(tiles):
    columns = slice(t * TILE, (t + 1) * TILE)
    x = value(*(ref[:, columns] for ref in in_refs))
    scale = scale_of(jnp.max(jnp.abs(x), axis=1), power_of_two)
    values_ref[:, columns] = cast(x / scale[:, None])
    scale_ref[_scale_row(1, tiles, t), :] = scale


def _columns_kernel(x_ref, values_ref, scale_ref, *, power_of_two):
  tiles = x_ref.shape[0] // TILE
  for t in range(tiles):
    rows = slice(t * TILE, (t + 1) * TILE)
    x = float32(x_ref[rows, :])
    scale = scale_of(jnp.max(jnp.abs(x), axis=0), power_of_two)
    values_ref[:, rows] = cast((x / scale[None, :]).T)
    scale_ref[_scale_row(1, tiles, t), :] = scale


def _blocks_kernel(w_ref, values_ref, scale_ref, *, power_of_two):
  rows, columns = w_ref.shape[0] // TILE, w_ref.shape[1] // TILE
  for r in range(rows):
    for c in range(columns):
      block = slice(r * TILE, (r + 1) * TILE), slice(c * TILE, (c + 1) * TILE)
      w = float32(w_ref[block])
      scale = scale_of(jnp.max(jnp.abs(w)), power_of_two)
      values_ref[block] = cast(w / scale)
      scale_ref[_scale_row(0, rows, r), _scale_row(1, columns, c)] = scale


def _scale_row(axis: int, tiles: int, tile: int) -> jax.Array:
  """Where the scales of a step's tile stand, of all along an axis of the grid."""
  return pl.program_id(axis) * tiles + tile
