"""Products of oriented matrices are those of the matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.ops.linear import from_heads, to_heads
from deepseek_jax.ops.oriented import FEW_ROWS, orient, product


def normal(shape, dtype="float32", seed=0):
  return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def close(found, wanted):
  assert found.dtype == wanted.dtype and found.shape == wanted.shape
  rtol = 2e-5 if found.dtype == jnp.float32 else 2e-2
  np.testing.assert_allclose(
    np.float32(found), np.float32(wanted), rtol=rtol, atol=rtol * np.abs(wanted).max()
  )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS, FEW_ROWS + 1, 33])
def test_a_matrix(rows, shape, dtype):
  x_ND, w_DF = normal((rows, shape[0]), dtype), normal(shape, dtype, 1)
  w = orient("up_DF", w_DF)
  assert w.shape == shape
  close(jax.jit(product)(x_ND, w), x_ND @ w_DF)
  close(product(x_ND[:, None], w), (x_ND @ w_DF)[:, None])
  assert product(x_ND, w, jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize("rows", [1, 5, FEW_ROWS + 1])
@pytest.mark.parametrize("shape", [(3, 16, 24), (3, 24, 16)])
def test_a_stack(rows, shape):
  x_ECD, w_EDF = normal((3, rows, shape[1])), normal(shape, seed=1)
  w = orient("gate_EDF", w_EDF)
  assert w.shape == shape
  close(product(x_ECD, w), x_ECD @ w_EDF)


@pytest.mark.parametrize("rows", [1, 16])
def test_heads(rows):
  x_BTD, w_DHK = normal((rows, 2, 12)), normal((12, 3, 8), seed=1)
  x_BTHK, w_HKD = normal((rows, 2, 3, 8)), normal((3, 8, 12), seed=1)
  close(to_heads(x_BTD, orient("q_DHK", w_DHK)), to_heads(x_BTD, w_DHK))
  close(from_heads(x_BTHK, orient("out_HKD", w_HKD)), from_heads(x_BTHK, w_HKD))
