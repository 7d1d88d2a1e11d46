"""The format, its scales, and quantisation in plain jnp against numpy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.fp8 import api, formats, ref

M, K = 256, 384
ONE = np.float32(1 / 448)  # the scale of a maximum of one


@pytest.fixture(scope="module")
def x_MK():
  """Magnitudes that differ from row to row and from column to column."""
  spread = jnp.exp2(jnp.arange(M) % 7)[:, None] * jnp.exp2(-(jnp.arange(K) % 5))
  return jax.random.normal(jax.random.key(0), (M, K)) * spread


def test_casts_saturate_where_the_bare_cast_makes_nan():
  x = jnp.array([448, 464.1, 1e4, jnp.inf, -465, -jnp.inf], jnp.float32)
  expected = [448, 448, 448, 448, -448, -448]
  np.testing.assert_array_equal(formats.cast(x).astype(jnp.float32), expected)
  assert jnp.isnan(x.astype(formats.E4M3).astype(jnp.float32)[2:]).all()
  assert jnp.isnan(formats.cast(jnp.float32(jnp.nan)).astype(jnp.float32))


def test_scales_carry_the_maximum_to_the_largest_value_and_have_a_smallest():
  amax = jnp.array([448, 1, 0, 1e-5, 3e38], jnp.float32)
  expected = np.maximum(np.asarray(amax), np.float32(1e-30)) * ONE
  np.testing.assert_array_equal(formats.scale_of(amax), expected)


@settings(max_examples=50, deadline=None)
@given(st.floats(2.0**-12, 2.0**120, width=32))
def test_powers_of_two_are_the_next_from_above(amax):
  scale = float(formats.scale_of(jnp.float32(amax)))
  power = float(formats.scale_of(jnp.float32(amax), power_of_two=True))
  assert power == 2.0 ** np.ceil(np.log2(scale))


def _tiles(x):
  """Quantises each 1x128 tile in numpy: values, and scales laid out as the matmul's."""
  values = np.empty(x.shape, np.float32)
  scales = np.empty((x.shape[1] // 128, x.shape[0]), np.float32)
  for m in range(x.shape[0]):
    for t in range(x.shape[1] // 128):
      tile = x[m, t * 128 : (t + 1) * 128]
      scales[t, m] = max(np.abs(tile).max(), np.float32(1e-30)) * ONE
      values[m, t * 128 : (t + 1) * 128] = (tile / scales[t, m]).astype(ml_dtypes.float8_e4m3fn)
  return values, scales


def test_rows_and_columns_are_quantised_tile_by_tile(x_MK):
  for result, x in (
    (ref.quantize_rows(x_MK), np.asarray(x_MK)),
    (ref.quantize_columns(x_MK), np.asarray(x_MK).T),
  ):
    for got, expected in zip(result, _tiles(x)):
      np.testing.assert_array_equal(got.astype(jnp.float32), expected)


def test_blocks_share_one_scale(x_MK):
  values, scales = ref.quantize_blocks(x_MK)
  for n in range(M // 128):
    for k in range(K // 128):
      block = np.asarray(x_MK)[n * 128 : (n + 1) * 128, k * 128 : (k + 1) * 128]
      assert scales[n, k] == np.abs(block).max() * ONE
      expected = (block / scales[n, k]).astype(ml_dtypes.float8_e4m3fn)
      got = values[n * 128 : (n + 1) * 128, k * 128 : (k + 1) * 128]
      np.testing.assert_array_equal(np.asarray(got), expected)


@pytest.mark.parametrize("power_of_two", (False, True))
def test_dequantising_comes_back_to_half_a_step(x_MK, power_of_two):
  pairs = (
    (ref.quantize_rows, ref.dequantize_rows),
    (ref.quantize_blocks, ref.dequantize_blocks),
  )
  for quantize, dequantize in pairs:
    values, scale = quantize(x_MK, power_of_two=power_of_two)
    back = np.asarray(dequantize(values, scale))
    smallest = np.asarray(dequantize(jnp.ones_like(values), scale)) * 2.0**-9  # the subnormal step
    error = np.abs(back - np.asarray(x_MK))
    assert (error <= np.maximum(np.abs(x_MK) / 16, smallest / 2) * (1 + 1e-6)).all()


def test_powers_of_two_make_dequantising_exact_in_bfloat16(x_MK):
  back = ref.dequantize_rows(*ref.quantize_rows(x_MK, power_of_two=True))
  np.testing.assert_array_equal(back, back.astype(jnp.bfloat16).astype(jnp.float32))


def test_swiglu_is_quantised_after_float32(x_MK):
  up_MK = jnp.flip(x_MK).astype(jnp.bfloat16)
  gate = np.asarray(x_MK, np.float64)
  hidden = gate / (1 + np.exp(-gate)) * np.asarray(up_MK, np.float64)
  back = ref.dequantize_rows(*ref.swiglu_quantize(x_MK, up_MK))
  largest = np.abs(hidden).reshape(M, K // 128, 128).max(-1).repeat(128, axis=1)
  assert (np.abs(back - hidden) <= np.maximum(np.abs(hidden) / 15, largest * 2.0**-18)).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(-20, 60))
def test_scales_alone_take_up_a_power_of_two(k):
  x = jax.random.normal(jax.random.key(1), (128, 128)) * 2.0**10
  plain, scaled = ref.quantize_rows(x), ref.quantize_rows(jnp.ldexp(x, k))
  np.testing.assert_array_equal(plain[0], scaled[0])
  np.testing.assert_array_equal(jnp.ldexp(plain[1], k), scaled[1])


def test_zeros_stay_zeros():
  for quantize in (ref.quantize_rows, ref.quantize_columns, ref.quantize_blocks):
    values, scale = quantize(jnp.zeros((128, 128)))
    assert not values.astype(jnp.float32).any() and (scale > 0).all()


def test_sizes_that_are_no_multiples_are_refused(x_MK):
  with pytest.raises(ValueError, match=r"multiples of 128, not \(100, 384\)"):
    api.quantize_rows(x_MK[:100])
  with pytest.raises(ValueError, match=r"equal multiples of 128, not \(256, 384\), \(128, 384\)"):
    api.swiglu_quantize(x_MK, x_MK[:128])
