"""`linear`: its value and gradients by hand, padding, scaling, and which kernels it runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import compat, dispatch
from pallas_kernels.fp8 import ref as fp8
from pallas_kernels.gemm import Recipe, linear, ref
from pallas_kernels.testing import aot
from pallas_kernels.testing.oracles import calc_diff

F32 = jnp.float32


def _arrays(M=256, N=256, K=384, dtype=F32):
  keys = jax.random.split(jax.random.key(1), 3)
  shapes = ((M, K), (N, K), (M, N))
  return tuple(jax.random.normal(k, s, F32).astype(dtype) for k, s in zip(keys, shapes))


def _value_and_gradients(x, w, dy, **options):
  @jax.jit
  def run(x, w, dy):
    y, pull = jax.vjp(lambda x, w: linear(x, w, out_dtype=F32, **options), x, w)
    return y, *pull(dy)

  return run(x, w, dy)


@pytest.mark.parametrize("implementation", ("ref", "xla"))
def test_value_and_gradients_are_products_of_what_is_quantised(implementation):
  x, w, dy = _arrays()
  result = _value_and_gradients(x, w, dy, implementation=implementation)
  w_NK, w_scale = fp8.quantize_blocks(w)
  kept = fp8.dequantize_rows(*fp8.quantize_rows(x))
  by_hand = (
    ref.matmul(*fp8.quantize_rows(x), w_NK, w_scale, out_dtype=F32),
    ref.matmul(*fp8.quantize_rows(dy), w_NK.T, w_scale.T, out_dtype=F32),
    ref.matmul(*fp8.quantize_rows(dy.T), *fp8.quantize_rows(kept.T), out_dtype=F32),
  )
  for got, expected in zip(result, by_hand):
    assert calc_diff(got, expected) < 1e-9


def test_value_and_gradients_are_near_the_unquantised():
  x, w, dy = _arrays()
  for got, exact in zip(_value_and_gradients(x, w, dy), (x @ w.T, dy @ w, dy.T @ x)):
    assert 1e-4 < calc_diff(got, exact) < 1e-3


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
def test_gradients_have_the_dtypes_of_what_they_are_of(dtype):
  x, _, _ = _arrays(dtype=dtype)
  _, w, _ = _arrays()
  y, pull = jax.vjp(lambda x, w: linear(x, w), x, w)
  dx, dw = pull(jnp.ones_like(y))
  assert (y.dtype, dx.dtype, dw.dtype) == (jnp.bfloat16, dtype, jnp.float32)


def test_other_dtypes_are_refused_by_name():
  x, w, _ = _arrays()
  with pytest.raises(ValueError, match="w is float16"):
    linear(x, w.astype(jnp.float16))


def test_gradient_blocks_change_the_input_gradient_alone():
  x, w, dy = _arrays()
  dy = dy * jnp.exp2(jnp.arange(256) % 24 - 12)[:, None]  # tokens of unequal gradients
  tiles = _value_and_gradients(x, w, dy)
  blocks = _value_and_gradients(x, w, dy, recipe=Recipe(gradient_blocks=True))
  np.testing.assert_array_equal(tiles[0], blocks[0])
  np.testing.assert_array_equal(tiles[2], blocks[2])
  small = slice(0, None, 24)  # the tokens that blocks drown
  errors = [calc_diff(dx[small], (dy @ w)[small]) for dx in (tiles[1], blocks[1])]
  assert errors[0] < 1e-3 < errors[1]


def test_power_of_two_scales_are_used_throughout():
  x, w, dy = _arrays()
  result = _value_and_gradients(x, w, dy, recipe=Recipe(power_of_two=True))
  expected = ref.matmul(
    *fp8.quantize_rows(x, power_of_two=True),
    *fp8.quantize_blocks(w, power_of_two=True),
    out_dtype=F32,
  )
  assert calc_diff(result[0], expected) < 1e-12
  for got, exact in zip(result, (x @ w.T, dy @ w, dy.T @ x)):
    assert calc_diff(got, exact) < 1e-3


@settings(max_examples=3, deadline=None)
@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 300))
def test_axes_of_any_size_are_filled_up(M, N, K):
  x, w, dy = _arrays(M, N, K)
  result = _value_and_gradients(x, w, dy)
  for got, exact in zip(result, (x @ w.T, dy @ w, dy.T @ x)):
    assert got.shape == exact.shape and calc_diff(got, exact) < 3e-3  # few terms, few to average


def test_more_tokens_leave_the_others_as_they_were():
  x, w, _ = _arrays()
  np.testing.assert_array_equal(linear(x[:77], w), linear(x, w)[:77])


@settings(max_examples=4, deadline=None)
@given(st.integers(-6, 20), st.integers(-6, 20))
def test_powers_of_two_pass_through_exactly(i, j):
  x, w, dy = _arrays(128, 128, 128)
  plain = _value_and_gradients(x, w, dy)
  scaled = _value_and_gradients(jnp.ldexp(x, i), jnp.ldexp(w, j), dy)
  for got, expected, power in zip(scaled, plain, (i + j, j, i)):
    np.testing.assert_array_equal(got, jnp.ldexp(expected, power))


def test_large_inputs_are_not_made_nan():
  x, w, dy = _arrays(128, 128, 128)
  assert all(jnp.isfinite(a).all() for a in _value_and_gradients(1e30 * x, w, dy))


@pytest.mark.parametrize("implementation", ("tpu", None))
def test_all_of_a_layer_is_kernels_on_a_tpu(implementation, monkeypatch):
  monkeypatch.setattr(dispatch, "device_kernel", lambda: "tpu")
  x, w, dy = _arrays()
  text = aot.lower(
    lambda *a: _value_and_gradients(*a, implementation=implementation), (x, w, dy), "v5e"
  )
  # Three products; rows and columns of x and of dy; blocks of w.
  assert text.count("@tpu_custom_call") == 8 and "stablehlo.dot_general" not in text


@pytest.mark.skipif(not compat.HAS_MGPU, reason="Hopper kernels need jax 0.11.2 or newer")
@pytest.mark.parametrize("implementation", ("mgpu", None))
def test_all_of_a_layer_is_kernels_on_hopper(implementation, monkeypatch):
  monkeypatch.setattr(dispatch, "device_kernel", lambda: "mgpu")
  x, w, dy = _arrays()
  text = aot.lower(
    lambda *a: _value_and_gradients(*a, implementation=implementation), (x, w, dy), "h100"
  )
  # As above, but rows and columns of dy are one.
  assert text.count("@mosaic_gpu") == 7 and "stablehlo.dot_general" not in text


@pytest.mark.skipif(not compat.HAS_MGPU, reason="Hopper kernels need jax 0.11.2 or newer")
def test_value_and_gradients_of_the_hopper_kernels():
  from jax.experimental.pallas import mosaic_gpu as plgpu

  x, w, dy = _arrays(128, 128, 256)
  with aot.pretended("h100", cores=1), plgpu.force_gpu_interpret_mode():
    result = jax.jit(lambda *a: _value_and_gradients(*a, implementation="mgpu"))(x, w, dy)
  for got, expected in zip(result, _value_and_gradients(x, w, dy, implementation="ref")):
    assert calc_diff(got, expected) < 1e-6


def test_value_and_gradients_of_the_tpu_kernels():
  from jax.experimental.pallas import tpu as pltpu

  x, w, dy = _arrays(128, 128, 256)
  with pltpu.force_tpu_interpret_mode():
    result = jax.jit(lambda *a: _value_and_gradients(*a, implementation="tpu"))(x, w, dy)
  for got, expected in zip(result, _value_and_gradients(x, w, dy, implementation="ref")):
    assert calc_diff(got, expected) < 1e-6


def test_an_unknown_implementation_is_refused():
  x, w, _ = _arrays()
  with pytest.raises(ValueError, match="no implementation 'triton'"):
    linear(x, w, implementation="triton")
