"""The matrix product with its own gradient rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.ops.linear import from_heads, linear, to_heads


@pytest.mark.parametrize("shape", [(5, 3, 7), (5, 7, 3), (4, 6, 6)])
def test_value_and_gradients_are_those_of_the_plain_product(shape):
  n, d, f = shape
  rng = np.random.default_rng(0)
  x_BTD, w_DF = rng.normal(size=(2, n, d)), rng.normal(size=(d, f))
  c_BTF = rng.normal(size=(2, n, f))

  def loss(product, x, w):
    return jnp.sum(jnp.sin(product(x, w)) * c_BTF)

  args = tuple(jnp.asarray(a, jnp.float32) for a in (x_BTD, w_DF))
  found = jax.grad(loss, argnums=(1, 2))(linear, *args)
  wanted = jax.grad(loss, argnums=(1, 2))(lambda x, w: x @ w, *args)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_keep_the_dtype_of_their_operands():
  x, w = jnp.ones((4, 3), jnp.bfloat16), jnp.ones((3, 2), jnp.bfloat16)
  dx, dw = jax.grad(lambda x, w: linear(x, w).sum(), argnums=(0, 1))(x, w)
  assert dx.dtype == dw.dtype == jnp.bfloat16


def test_heads_are_columns_side_by_side():
  rng = np.random.default_rng(1)
  x_BTD, w_DHK = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5, 6))
  heads = to_heads(x_BTD, w_DHK)
  np.testing.assert_allclose(heads, np.einsum("btd,dhk->bthk", x_BTD, w_DHK), rtol=1e-5)
  w_HKD = rng.normal(size=(5, 6, 4))
  wanted = np.einsum("bthk,hkd->btd", heads, w_HKD)
  np.testing.assert_allclose(from_heads(heads, w_HKD), wanted, rtol=1e-4, atol=1e-5)
