"""The Hopper kernel in the interpreter: values, races, uninitialised memory, and mutations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import compat
from pallas_kernels.dispatch import Unsupported
from pallas_kernels.fp8 import ref as fp8
from pallas_kernels.gemm import mgpu, ref
from pallas_kernels.testing import aot, races
from pallas_kernels.testing.oracles import calc_diff, max_relative

needs_mgpu = pytest.mark.skipif(
  not compat.HAS_MGPU, reason="Hopper kernels need jax 0.11.2 or newer"
)
M, N, K = 256, 256, 512  # 4 tiles on one block of the grid; 4 steps along K in 2 stages
TILES = mgpu.Tiles(stages=2, snake_width=2)


@pytest.fixture(scope="module")
def operands():
  x_key, w_key = jax.random.split(jax.random.key(0))
  x_MK, w_NK = jax.random.normal(x_key, (M, K)), jax.random.normal(w_key, (N, K))
  weights = {True: fp8.quantize_blocks(w_NK), False: fp8.quantize_rows(w_NK)}
  return fp8.quantize_rows(x_MK), weights, x_MK @ w_NK.T


def _run(x, w, out_dtype=jnp.float32, blocks=1):
  interpret = compat.gpu_interpreter(detect_races=True)
  with aot.pretended("h100", cores=blocks):
    return races.run(
      lambda *a: mgpu.matmul(*a, out_dtype=out_dtype, tiles=TILES, interpret=interpret), *x, *w
    )


@needs_mgpu
@pytest.mark.parametrize("by_blocks", (True, False))
def test_it_is_the_reference_in_float32_without_races(operands, by_blocks):
  x, weights, product = operands
  result, found = _run(x, weights[by_blocks])
  assert found == []
  assert calc_diff(result, ref.matmul(*x, *weights[by_blocks], out_dtype=jnp.float32)) < 1e-6
  assert calc_diff(result, product) < 1e-3


@needs_mgpu
def test_it_is_the_reference_in_bfloat16_and_the_same_on_any_number_of_blocks(operands):
  x, weights, _ = operands
  result, found = _run(x, weights[True], jnp.bfloat16)
  assert result.dtype == jnp.bfloat16 and found == []
  exact = ref.matmul(*x, *weights[True], out_dtype=jnp.float32)
  assert max_relative(result.astype(jnp.float32), exact) < 4e-3
  np.testing.assert_array_equal(result, _run(x, weights[True], jnp.bfloat16, blocks=3)[0])


@needs_mgpu
@pytest.mark.parametrize(
  "name, mutated, by_blocks",
  (
    ("_nothing", lambda shape: jnp.full(shape, jnp.nan, jnp.float32), True),
    ("_block_scale", lambda scale, column, step: scale[column // 128, (step + 1) % 4], True),
    ("_block_scale", lambda scale, column, step: scale[0, step], True),
    ("_promote", lambda total, part, scale: total + part, False),
    ("_promote", lambda total, part, scale: part * scale, False),
  ),
  ids=("total not cleared", "next scale", "other block's scale", "unscaled", "sum not kept"),
)
def test_wrong_values_are_seen(operands, monkeypatch, name, mutated, by_blocks):
  x, weights, _ = operands
  monkeypatch.setattr(mgpu, name, mutated)
  result, _ = _run(x, weights[by_blocks])
  exact = ref.matmul(*x, *weights[by_blocks], out_dtype=jnp.float32)
  assert not calc_diff(result, exact) < 1e-6


@needs_mgpu
@pytest.mark.parametrize("name", ("fence_reads", "await_stores", "publish"))
def test_missing_synchronisation_is_a_race(operands, monkeypatch, name):
  x, weights, _ = operands
  monkeypatch.setattr(mgpu, name, lambda: None)
  assert _run(x, weights[True])[1]


@needs_mgpu
def test_what_does_not_fit_the_tiles_is_refused(operands):
  x, weights, _ = operands
  with pytest.raises(Unsupported, match="64x512 and 256x512 is not made of tiles of 128x128x128"):
    mgpu.matmul(x[0][:64], x[1][:, :64], *weights[True])


@pytest.mark.skipif(compat.HAS_MGPU, reason="this jax has what Hopper kernels need")
def test_an_old_jax_is_refused(operands):
  x, weights, _ = operands
  with pytest.raises(Unsupported, match="jax 0.11.2"):
    mgpu.matmul(*x, *weights[True])
