"""The product's plain forms against float64, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.fp8 import ref as fp8
from pallas_kernels.gemm import api, ref, xla
from pallas_kernels.testing.oracles import calc_diff

M, N, K = 128, 256, 512


@pytest.fixture(scope="module")
def operands():
  """A quantised x, w in blocks, and w in 1x128 tiles."""
  x_key, w_key = jax.random.split(jax.random.key(0))
  x_MK = fp8.quantize_rows(jax.random.normal(x_key, (M, K)))
  w_NK = jax.random.normal(w_key, (N, K)) * jnp.exp2(jnp.arange(N) // 64)[:, None]
  return x_MK, fp8.quantize_blocks(w_NK), fp8.quantize_rows(w_NK)


def _exact(x, w, by_blocks):
  """In float64, scale by scale."""
  x_MK, x_scale = (np.asarray(a, np.float64) for a in x)
  w_NK, w_scale = (np.asarray(a, np.float64) for a in w)
  total = np.zeros((M, N))
  for m in range(M):
    for t in range(K // 128):
      part_N = w_NK[:, t * 128 : (t + 1) * 128] @ x_MK[m, t * 128 : (t + 1) * 128]
      w_scale_N = [w_scale[n // 128, t] if by_blocks else w_scale[t, n] for n in range(N)]
      total[m] += part_N * x_scale[t, m] * np.array(w_scale_N)
  return total


@pytest.mark.parametrize("by_blocks", (True, False))
@pytest.mark.parametrize("form", (ref, xla), ids=("ref", "xla"))
def test_the_plain_forms_are_the_scaled_sum(operands, form, by_blocks):
  x, blocks, rows = operands
  w = blocks if by_blocks else rows
  result = jax.jit(lambda *a: form.matmul(*a, out_dtype=jnp.float32))(*x, *w)
  assert calc_diff(result, _exact(x, w, by_blocks)) < 1e-12


def test_scales_of_other_shapes_are_refused(operands):
  x, blocks, _ = operands
  with pytest.raises(ValueError, match=r"one of \(\(2, 4\), \(4, 256\)\)"):
    api.matmul(*x, blocks[0], blocks[1].T)
  with pytest.raises(ValueError, match="do not make a product"):
    api.matmul(*x, blocks[0][:, :128], blocks[1][:, :1])
