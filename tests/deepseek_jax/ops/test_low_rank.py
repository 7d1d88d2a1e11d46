"""Matrices with a change of low rank, against the sum written out and the chain rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.ops.feed_forward import down
from deepseek_jax.ops.fp8 import FP8Blocks, quantize_matrix
from deepseek_jax.ops.linear import from_heads, linear, to_heads
from deepseek_jax.ops.low_rank import LowRank, sizes
from deepseek_jax.ops.precision import Precision

SCALE, RANK = 1.7, 3
# name of the parameter, its shape, the shape of what it is multiplied with
KINDS = {
  "gate_DF": (linear, (12, 10), (2, 5, 12)),
  "q_DHK": (to_heads, (12, 4, 6), (2, 5, 12)),
  "out_HKD": (from_heads, (4, 6, 12), (2, 5, 4, 6)),
}


def draw(*shape, seed):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def low_rank(name, shape):
  _, inputs, outputs = sizes(name, shape)
  a_IY, b_YO = draw(inputs, RANK, seed=1), draw(RANK, outputs, seed=2)
  return LowRank(draw(*shape, seed=0), a_IY, b_YO, SCALE)


def dense(w):
  """W + scale A B with the axes of W, in float64."""
  change = w.a_IY.astype(np.float64) @ w.b_YO.astype(np.float64)
  return w.base + SCALE * change.reshape(w.base.shape)


@pytest.mark.parametrize("name", KINDS)
def test_a_product_is_that_of_the_merged_matrix(name):
  multiply, shape, inputs = KINDS[name]
  w, x = low_rank(name, shape), draw(*inputs, seed=3)
  with jax.enable_x64(True):
    wanted = multiply(jnp.asarray(x, jnp.float64), jnp.asarray(dense(w)))
  np.testing.assert_allclose(multiply(jnp.asarray(x), w), wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(w.merged(), dense(w), rtol=1e-5, atol=1e-5)
  assert w.shape == shape


@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_a_and_b_are_the_dense_gradient_by_the_chain_rule(name):
  multiply, shape, inputs = KINDS[name]
  w, x = low_rank(name, shape), draw(*inputs, seed=3)
  d = draw(*multiply(jnp.asarray(x), w).shape, seed=4)
  found = jax.grad(lambda w, x: jnp.sum(d * multiply(x, w)), argnums=(0, 1))(w, jnp.asarray(x))
  # The dense form, in NumPy alone: dW = x' d.
  _, inputs, outputs = sizes(name, shape)
  x_NI, d_NO = x.reshape(-1, inputs).astype(np.float64), d.reshape(-1, outputs).astype(np.float64)
  dw_IO = x_NI.T @ d_NO
  np.testing.assert_allclose(found[0].a_IY, SCALE * dw_IO @ w.b_YO.T, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(found[0].b_YO, SCALE * w.a_IY.T @ dw_IO, rtol=1e-4, atol=1e-4)
  dx_NI = d_NO @ dense(w).reshape(inputs, outputs).T
  np.testing.assert_allclose(found[1].reshape(-1, inputs), dx_NI, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["plain", "bfloat16", "fp8"])
@pytest.mark.parametrize("name", KINDS)
def test_the_base_is_rounded_as_ever_and_the_change_is_not(name, precision):
  multiply, shape, inputs = KINDS[name]
  w, x = low_rank(name, shape), jnp.asarray(draw(*inputs, seed=3))
  rounded = Precision(precision)
  change = multiply(x, jnp.asarray(dense(w) - w.base, jnp.float32))
  wanted = multiply(x, jnp.asarray(w.base), rounded) + change
  np.testing.assert_allclose(multiply(x, w, rounded), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["plain", "bfloat16", "fp8"])
def test_the_last_product_of_a_feed_forward_takes_it_too(precision):
  w = low_rank("down_FD", (10, 12))
  g, u = jnp.asarray(draw(7, 10, seed=5)), jnp.asarray(draw(7, 10, seed=6))
  change = (jax.nn.silu(g) * u) @ (SCALE * w.a_IY @ w.b_YO)
  wanted = down(g, u, jnp.asarray(w.base), Precision(precision)) + change
  np.testing.assert_allclose(down(g, u, w, Precision(precision)), wanted, rtol=1e-4, atol=1e-4)


def test_a_base_in_fp8_is_dequantised_where_it_is_used():
  matrix = draw(130, 140, seed=0)
  values, scale = quantize_matrix(matrix)
  base = FP8Blocks(values, scale)
  w = LowRank(base, draw(130, RANK, seed=1), draw(RANK, 140, seed=2), SCALE)
  x = jnp.asarray(draw(4, 130, seed=3))
  plain = LowRank(np.asarray(base.astype(jnp.float32)), w.a_IY, w.b_YO, SCALE)
  np.testing.assert_array_equal(linear(x, w.astype(jnp.float32)), linear(x, plain))
  np.testing.assert_array_equal(w.merged(), plain.merged())


def test_a_scan_slices_all_of_a_stack():
  stack = LowRank(*(draw(4, *s, seed=i) for i, s in enumerate([(6, 2, 3), (6, 2), (2, 6)])), SCALE)
  _, layers = jax.lax.scan(lambda c, w: (c, w.merged()), 0, stack)
  np.testing.assert_allclose(layers, stack.merged(), rtol=1e-6)
  assert sizes("q_DHK", stack.shape) == ((4,), 6, 6)
