"""FP8 blocks: quantised as DeepSeek's files are, and dequantised the same on host and device."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from deepseek_jax.ops.fp8 import (
  E4M3,
  FP8Blocks,
  dequantize,
  dequantize_matrix,
  quantize_matrix,
)
from deepseek_jax.sharding import MeshConfig, make_mesh, state_shardings
from deepseek_jax.types import Weights


def matrix(rows, columns, seed=0):
  rng = np.random.default_rng(seed)
  spread = np.exp(rng.normal(size=(rows, columns)))
  return (rng.standard_normal((rows, columns)) * spread).astype(np.float32)


@pytest.mark.parametrize("shape", [(128, 256), (200, 72), (64, 130), (1, 1), (300, 300)])
def test_a_block_has_the_scale_of_its_largest_value(shape):
  w = matrix(*shape)
  values, scales = quantize_matrix(w)
  assert values.dtype == E4M3 and values.shape == shape
  assert scales.shape == (-(-shape[0] // 128), -(-shape[1] // 128))
  back = dequantize_matrix(values, scales)
  for i, j in np.ndindex(*scales.shape):
    block = np.s_[128 * i : 128 * (i + 1), 128 * j : 128 * (j + 1)]
    assert scales[i, j] == np.abs(w[block]).max() / np.float32(448)
    assert np.array_equal(values[block], (w[block] / scales[i, j]).astype(E4M3))
    assert np.array_equal(back[block], values[block].astype(np.float32) * scales[i, j])
    # Three bits of mantissa; below 2^-6 steps of 2^-9.
    limit = np.maximum(np.abs(w[block]) / 16, scales[i, j] * 2.0**-10)
    assert np.all(np.abs(back[block] - w[block]) <= limit * 1.0001)


def test_zeros_and_extremes():
  w = np.zeros((130, 129), np.float32)
  w[0, 0] = 3e38
  w[129, 128] = 1e-45  # whose scale would be zero
  values, scales = quantize_matrix(w)
  assert scales[0, 1] == scales[1, 0] == scales[1, 1] == 1.0
  assert values[0, 0] == 448 and np.all(values.astype(np.float32).ravel()[1:] == 0)
  tiny = np.full((128, 128), 5e-43, np.float32)  # a scale that is itself rounded
  assert np.all(np.isfinite(dequantize_matrix(*quantize_matrix(tiny))))


def test_every_code_has_its_value():
  codes = np.arange(256, dtype=np.uint8).view(E4M3).reshape(2, 128)
  found = dequantize_matrix(codes, np.full((1, 1), 0.25, np.float32))
  expected = codes.astype(np.float32) / 4
  assert np.array_equal(found, expected, equal_nan=True) and np.isnan(found).sum() == 2


@pytest.mark.parametrize("full", [(), (0,), (1,), (0, 1)])
def test_leaves_dequantise_as_the_matrix_does(full):
  """Whether an axis keeps its scales by block or by element."""
  values, scales = quantize_matrix(matrix(200, 300))
  held = scales
  for axis in full:
    held = np.repeat(held, 128, axis)[: (200, 300)[axis], : (200, 300)[1] if axis else None]
  stack = FP8Blocks(np.stack([values] * 2), np.stack([held] * 2))
  assert stack.shape == (2, 200, 300) and stack.ndim == 3 and stack.size == 120_000
  expected = dequantize_matrix(values, scales)
  assert np.array_equal(jax.jit(lambda x: x.astype(jnp.float32))(stack)[1], expected)
  assert np.array_equal(stack.astype(jnp.bfloat16)[0], expected.astype(ml_dtypes.bfloat16))


def test_dequantize_leaves_the_rest_alone_and_keeps_places():
  mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
  values, scales = quantize_matrix(matrix(256, 512))
  weights = Weights(
    {"gate_DF": FP8Blocks(jnp.asarray(values), jnp.asarray(scales)), "norm_D": jnp.ones(3)},
    jnp.zeros((1, 2)),
  )
  where = state_shardings(mesh, weights)
  assert where.params["gate_DF"].values.spec == P("fsdp", "tensor")
  assert where.params["gate_DF"].scale.spec == P(None, "tensor")  # two blocks on four devices
  plain = dequantize(jax.device_put(weights, where))
  assert np.array_equal(plain.params["gate_DF"], dequantize_matrix(values, scales))
  assert plain.params["gate_DF"].sharding == where.params["gate_DF"].values
  assert np.array_equal(plain.params["norm_D"], np.ones(3))
  assert dequantize(weights, jnp.bfloat16).params["gate_DF"].dtype == jnp.bfloat16
