"""The simulated accumulator."""

import numpy as np

from pallas_kernels.gemm import promotion


def test_small_integers_are_summed_exactly():
  x, w = np.random.default_rng(0).integers(-4, 5, size=(2, 8, 256)).astype(float)
  for every in (None, 128):
    np.testing.assert_array_equal(promotion.product(x, w, promote_every=every), x @ w.T)


def test_what_lies_below_fourteen_bits_of_the_largest_is_lost():
  x = np.zeros((1, 64))
  x[0, 0], x[0, 1], x[0, 32] = 2.0**13, 1.0, 0.75  # the last meets the sum of the first 32
  w = np.ones((1, 64))
  assert promotion.product(x, w, promote_every=None) == 2**13 + 1
  assert promotion.product(x, w, promote_every=32) == 2**13 + 1.75
  assert promotion.product(x, w, promote_every=None, bits=16) == 2**13 + 1.75
  assert promotion.product(-x, w, promote_every=None) == -(2**13) - 1  # towards zero


def test_promotion_holds_the_error_that_grows_without_it():
  rows = promotion.errors(depths=(1024, 4096), size=16)
  assert [row["K"] for row in rows] == [1024, 4096]
  for row in rows:
    assert row["promoted"] < 0.5 * row["not_promoted"]
  assert rows[1]["not_promoted"] > 1.5 * rows[0]["not_promoted"]
  assert rows[1]["promoted"] < 1.5 * rows[0]["promoted"]


def test_a_float32_accumulator_needs_no_promotion():
  rng = np.random.default_rng(0)
  x, w = (promotion._e4m3(rng.normal(size=(8, 1024))) for _ in range(2))
  sums = promotion.product(x, w, promote_every=None, bits=24)
  np.testing.assert_allclose(sums, x @ w.T, atol=1e-5 * np.abs(x @ w.T).max())
