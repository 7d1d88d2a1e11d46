"""The TPU kernel in the interpreter: values, races, uninitialised memory, and mutations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import compat
from pallas_kernels.fp8 import ref as fp8
from pallas_kernels.gemm import ref, tpu
from pallas_kernels.testing import aot, races
from pallas_kernels.testing.oracles import calc_diff, max_relative

M, N, K = 384, 256, 512  # 3 x 1 tiles of 2 steps along K, each of 2 scales
TILES = tpu.Tiles(rows=128, columns=256, depth=256)


@pytest.fixture(scope="module")
def operands():
  x_key, w_key = jax.random.split(jax.random.key(0))
  x_MK, w_NK = jax.random.normal(x_key, (M, K)), jax.random.normal(w_key, (N, K))
  weights = {True: fp8.quantize_blocks(w_NK), False: fp8.quantize_rows(w_NK)}
  return fp8.quantize_rows(x_MK), weights, x_MK @ w_NK.T


def _run(x, w, out_dtype=jnp.float32):
  interpret = compat.tpu_interpreter(detect_races=True, dma_execution_mode="on_wait")
  return races.run(
    lambda *a: tpu.matmul(*a, out_dtype=out_dtype, tiles=TILES, interpret=interpret), *x, *w
  )


@pytest.mark.parametrize("by_blocks", (True, False))
def test_it_is_the_reference_in_float32_without_races(operands, by_blocks):
  x, weights, product = operands
  result, found = _run(x, weights[by_blocks])
  assert found == []
  assert calc_diff(result, ref.matmul(*x, *weights[by_blocks], out_dtype=jnp.float32)) < 1e-6
  assert calc_diff(result, product) < 1e-3


def test_it_is_the_reference_in_bfloat16(operands):
  x, weights, _ = operands
  result, _ = _run(x, weights[True], jnp.bfloat16)
  assert result.dtype == jnp.bfloat16
  exact = ref.matmul(*x, *weights[True], out_dtype=jnp.float32)
  assert max_relative(result.astype(jnp.float32), exact) < 4e-3


def test_v7_multiplies_e4m3_as_it_is(operands):
  x, weights, _ = operands
  with aot.pretended("tpu7x"):
    assert tpu.tpu_dtype() == jnp.float8_e4m3fn
    result, _ = _run(x, weights[True])
  assert calc_diff(result, ref.matmul(*x, *weights[True], out_dtype=jnp.float32)) < 1e-6


def test_it_repeats_bit_for_bit(operands):
  x, weights, _ = operands
  np.testing.assert_array_equal(_run(x, weights[True])[0], _run(x, weights[True])[0])


@pytest.mark.parametrize(
  "name, mutated, by_blocks",
  (
    ("_clear", lambda total_ref: None, True),
    ("_block_row", lambda ref, tile, tiles: jnp.full(tiles.columns, ref[0, tile]), True),
    ("_promote", lambda total, part, x, w: total + part * (x[:, None] * w[0]), False),
    ("_promote", lambda total, part, x, w: part * (x[:, None] * w[None]), False),
  ),
  ids=("accumulator not cleared", "other block's scale", "one scale for all", "sum not kept"),
)
def test_mutations_are_seen(operands, monkeypatch, name, mutated, by_blocks):
  x, weights, _ = operands
  monkeypatch.setattr(tpu, name, mutated)
  result, _ = _run(x, weights[by_blocks])
  exact = ref.matmul(*x, *weights[by_blocks], out_dtype=jnp.float32)
  assert not calc_diff(result, exact) < 1e-6


def test_tiles_fit_the_shapes():
  assert tpu.Tiles().fitted(4096, 2176, 1536) == tpu.Tiles(512, 128, 768)
  assert tpu.Tiles().fitted(128, 512, 128) == tpu.Tiles(128, 512, 128)


@pytest.mark.parametrize("chip", aot.TPUS)
def test_it_lowers_to_a_kernel_for_every_chip(operands, chip):
  x, weights, _ = operands
  assert "tpu_custom_call" in aot.lower(tpu.matmul, (*x, *weights[True]), chip)
