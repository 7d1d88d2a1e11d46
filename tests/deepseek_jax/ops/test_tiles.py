"""E4M3 with a scale per tile: NumPy's and ml_dtypes' numbers, and those of the kernels."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from deepseek_jax.ops.tiles import BLOCKS, COLUMNS, ROWS, quantize, round_e4m3, rounded
from pallas_kernels.fp8 import ref

E4M3 = ml_dtypes.float8_e4m3fn


def numpy_rounded(x, tile):
  """Tile by tile: divided by a 448th of the largest magnitude, cast, multiplied."""
  reciprocal = np.float32(1 / 448)
  y = np.zeros(x.shape, np.float32)
  M, K = x.shape[-2:]
  for i in range(0, M, tile[0]):
    for k in range(0, K, tile[1]):
      part = (..., slice(i, i + tile[0]), slice(k, k + tile[1]))
      amax = np.abs(x[part]).max(axis=(-2, -1), keepdims=True).astype(np.float32)
      scale = np.maximum(amax, np.float32(1e-30)) * reciprocal
      y[part] = (x[part] / scale).astype(E4M3).astype(np.float32) * scale
  return y


def wide(seed, *shape):
  """Normal numbers whose deviation differs from row to row and column to column, by decades."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=shape) * 10 ** rng.uniform(-3, 2, (shape[-2], 1))
  return (x * 10 ** rng.uniform(-2, 2, shape[-1])).astype(np.float32)


def test_rounding_is_the_cast_of_every_number_and_of_all_ties():
  numbers = np.arange(0, 127, dtype=np.uint8).view(E4M3).astype(np.float32)  # 0 to 448
  ties = (numbers[1:] + numbers[:-1]) / 2
  near = [np.nextafter(ties, np.float32(towards)) for towards in (-1, 1e3)]
  drawn = np.geomspace(1e-9, 448, 50_000, dtype=np.float32)
  x = np.concatenate([numbers, ties, *near, np.minimum(drawn, 448)])
  x = np.concatenate([x, -x])
  found = jax.jit(round_e4m3)(x)
  np.testing.assert_array_equal(found, x.astype(E4M3).astype(np.float32))


@pytest.mark.parametrize("tile", [ROWS, COLUMNS, BLOCKS])
@pytest.mark.parametrize("shape", [(256, 384), (130, 200), (5, 300), (300, 5), (2, 3, 140, 129)])
def test_tiles_are_numpys_at_ragged_edges_too(shape, tile):
  x = wide(sum(shape), *shape)
  np.testing.assert_array_equal(jax.jit(rounded, static_argnums=1)(x, tile), numpy_rounded(x, tile))


@pytest.mark.parametrize("tile", [ROWS, COLUMNS, BLOCKS])
def test_what_is_kept_is_what_is_multiplied_in_a_quarter_of_the_bytes(tile):
  x = wide(1, 256, 300)
  kept = jax.jit(quantize, static_argnums=1)(x, tile)
  assert kept.values.dtype == E4M3
  assert kept.values.nbytes == x.nbytes / 4
  assert kept.scale.nbytes <= x.nbytes / 64
  np.testing.assert_array_equal(jax.jit(lambda k: k.restore())(kept), rounded(jnp.asarray(x), tile))


def test_values_and_scales_are_the_kernels():
  x = np.random.default_rng(2).normal(size=(256, 384)).astype(np.float32)
  for tile, theirs in ((ROWS, ref.quantize_rows), (BLOCKS, ref.quantize_blocks)):
    values, scale = jax.jit(theirs)(x)
    ours = quantize(jnp.asarray(x), tile)
    np.testing.assert_array_equal(np.asarray(ours.values), np.asarray(values))
    scale = scale.T if tile == ROWS else scale
    np.testing.assert_array_equal(ours.scale.reshape(scale.shape), scale)
  values, scale = jax.jit(ref.quantize_columns)(x)
  ours = quantize(jnp.asarray(x), COLUMNS)
  np.testing.assert_array_equal(np.asarray(ours.values), np.asarray(values).T)
  np.testing.assert_array_equal(ours.scale.reshape(scale.shape), scale)


@pytest.mark.parametrize("tile", [ROWS, COLUMNS, BLOCKS])
def test_an_element_reaches_no_further_than_its_tile(tile):
  x = np.random.default_rng(3).normal(size=(256, 384)).astype(np.float32)
  more = x.copy()
  more[140, 200] = 1e4 * np.abs(x).max()
  changed = np.asarray(rounded(jnp.asarray(x), tile)) != np.asarray(
    rounded(jnp.asarray(more), tile)
  )
  own = np.zeros_like(changed)
  rows = {ROWS: slice(140, 141), COLUMNS: slice(128, 256), BLOCKS: slice(128, 256)}[tile]
  columns = {ROWS: slice(128, 256), COLUMNS: slice(200, 201), BLOCKS: slice(128, 256)}[tile]
  own[rows, columns] = True
  assert not changed[~own].any()
  assert changed[own].mean() > 0.9


def test_gradients_far_below_one_keep_their_bits():
  x = wide(4, 8, 256)
  small = x * np.float32(2.0**-40)
  np.testing.assert_array_equal(
    rounded(jnp.asarray(small), ROWS), np.asarray(rounded(jnp.asarray(x), ROWS)) * 2.0**-40
  )


def test_zeros_stay_zeros_and_what_is_no_number_stays_none():
  x = np.zeros((2, 256), np.float32)
  np.testing.assert_array_equal(rounded(jnp.asarray(x), ROWS), x)
  x[1, 3] = np.nan
  found = np.asarray(rounded(jnp.asarray(x), ROWS))
  assert np.isnan(found[1, :128]).all()
  assert not found[0].any() and not found[1, 128:].any()
