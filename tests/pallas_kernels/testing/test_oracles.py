"""The difference measures."""

import logging

import numpy as np

from pallas_kernels.testing import oracles, races


def test_calc_diff_is_zero_for_equals_and_one_for_orthogonals():
  x, y = np.array([1.0, 0.0]), np.array([0.0, 2.0])
  assert oracles.calc_diff(x, x) == 0 and oracles.calc_diff(x, y) == 1
  assert oracles.calc_diff(0 * x, 0 * x) == 0


def test_calc_diff_of_a_relative_error_is_half_its_square():
  x = np.random.default_rng(0).normal(size=100_000)
  noisy = x * (1 + 0.01 * np.random.default_rng(1).normal(size=x.size))
  np.testing.assert_allclose(oracles.calc_diff(noisy, x), 0.5e-4, rtol=0.05)


def test_differences_with_nan_are_no_numbers():
  x = np.array([1.0, np.nan])
  assert not oracles.calc_diff(x, np.ones(2)) < 1e9
  assert not oracles.max_relative(x, np.ones(2)) < 1e9


def test_max_relative():
  assert oracles.max_relative(np.array([1.0, 3.0]), np.array([1.0, -2.0])) == 2.5


def test_races_are_counted_by_their_words():
  with races.reported() as found:
    print("RACE DETECTED\n  one\n\nRACE DETECTED\n  two")
    logging.getLogger("jax.some.module").warning("RACE DETECTED\n  three")
  assert [race.split()[2] for race in found] == ["one", "two", "three"]
  with races.reported() as found:
    print("quiet")
  assert found == []
