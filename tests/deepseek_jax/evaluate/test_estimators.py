"""Estimators against brute force and against their promised coverage."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_jax.evaluate import estimators


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.integers(1, 7))
@settings(deadline=None)
def test_pass_at_k_equals_counting_every_subset(correct, k):
  if k > len(correct):
    with pytest.raises(ValueError, match=f"at least {k} samples"):
      estimators.pass_at_k(np.array([correct]), k)
    return
  subsets = list(itertools.combinations(correct, k))
  expected = sum(map(any, subsets)) / len(subsets)
  assert estimators.pass_at_k(np.array([correct]), k)[0] == pytest.approx(expected, abs=1e-12)


def test_pass_at_1_is_the_mean_and_pass_at_n_is_any():
  correct = np.random.default_rng(0).random((50, 8)) < 0.2
  np.testing.assert_allclose(estimators.pass_at_k(correct, 1), correct.mean(axis=1), atol=1e-12)
  np.testing.assert_array_equal(estimators.pass_at_k(correct, 8), correct.any(axis=1))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=7), st.integers(1, 7))
@settings(deadline=None)
def test_differing_at_k_equals_counting_every_subset(values, k):
  if k > len(values):
    with pytest.raises(ValueError, match=f"at least {k} samples"):
      estimators.differing_at_k(np.array([values]), k)
    return
  expected = np.mean([len(set(some)) > 1 for some in itertools.combinations(values, k)])
  found = estimators.differing_at_k(np.array([values]), k)[0]
  assert found == pytest.approx(expected, abs=1e-12)


def test_differing_at_k_is_unbiased():
  """Over all outcomes of four samples with pass rate .3, by their probabilities."""
  outcomes_PJ = np.array(list(itertools.product((0, 1), repeat=4)))
  chance_P = np.prod(np.where(outcomes_PJ == 1, 0.3, 0.7), axis=1)
  for k in (2, 3, 4):
    mean = chance_P @ estimators.differing_at_k(outcomes_PJ, k)
    assert mean == pytest.approx(1 - 0.3**k - 0.7**k)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=9))
def test_differing_beyond_agrees_at_two_and_rises_to_a_share(correct):
  correct_PJ = np.array(correct, float)
  two, *rest = (estimators.differing_beyond(correct_PJ, k) for k in (2, 3, 8, 64))
  counted = estimators.differing_at_k(correct_PJ, 2).mean()
  right_P = correct_PJ.mean(axis=1)
  square = (right_P * (4 * right_P - 1) / 3).mean()
  if square >= right_P.mean() ** 2:  # else no distribution has these moments: all rates are alike
    assert two == pytest.approx(counted, abs=1e-9)
  assert -1e-9 <= two <= rest[0] + 1e-9 <= rest[1] + 2e-9 <= rest[2] + 3e-9 <= 1 + 1e-6


def test_differing_beyond_finds_the_truth_of_beta_distributed_rates():
  rng = np.random.default_rng(0)
  rate_P = rng.beta(0.5, 2.0, 20_000)
  correct_PJ = (rng.random((20_000, 4)) < rate_P[:, None]).astype(float)
  for k in (4, 16, 64):
    true = np.mean(1 - rate_P**k - (1 - rate_P) ** k)
    assert estimators.differing_beyond(correct_PJ, k) == pytest.approx(true, abs=0.015)
    plugged = np.mean([1 - p**k - (1 - p) ** k for p in correct_PJ.mean(axis=1)])
    assert k == 4 or plugged < true - 0.15


@pytest.mark.parametrize("bad", [np.zeros(4), np.array([[0.5, 1.0]])])
def test_pass_at_k_refuses_what_it_is_not_defined_for(bad):
  with pytest.raises(ValueError, match="pass@k"):
    estimators.pass_at_k(bad, 1)


def test_consensus_takes_the_commonest_answer_and_splits_ties():
  answers = [["a", "b", "a"], ["a", "b", None], [None, None, None], ["b", "c", "c"]]
  correct = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
  assert estimators.consensus(answers, correct).tolist() == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize("estimate, samples", [("share", 1), ("share", 8), ("mean", 8)])
def test_intervals_cover_the_truth_when_samples_of_a_problem_go_together(estimate, samples):
  # Problems differ much in difficulty, so an interval over single samples would be far too short.
  rng, covered, naive, runs = np.random.default_rng(1), 0, 0, 400
  for _ in range(runs):
    difficulty = rng.beta(0.4, 0.6, size=60)
    correct = rng.random((60, samples)) < difficulty[:, None]
    found = getattr(estimators, estimate)(correct.mean(axis=1))
    covered += found.low <= 0.4 <= found.high
    error = 1.96 * np.sqrt(found.value * (1 - found.value) / correct.size)
    naive += abs(found.value - 0.4) <= error
  assert 0.92 <= covered / runs <= 0.98
  assert samples == 1 or naive / runs < 0.8


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_of_none_or_all_is_not_certain_and_stays_in_bounds(value):
  found = estimators.share(np.full(40, value))
  assert found.value == value
  assert 0.02 < found.high - found.low < 0.2
  assert 0 <= found.low <= value <= found.high <= 1


def test_share_refuses_numbers_that_are_none():
  with pytest.raises(ValueError, match="between 0 and 1"):
    estimators.share(np.array([0.5, 1.5]))


def test_a_paired_difference_is_sharper_than_the_difference_of_means():
  rng = np.random.default_rng(2)
  before = rng.random(200)
  after = before + 0.02 + 0.01 * rng.standard_normal(200)
  found = estimators.paired_difference(after, before)
  assert found.low > 0 and found.value == pytest.approx(0.02, abs=0.003)
  apart = estimators.mean(after).low - estimators.mean(before).high
  assert apart < 0  # unpaired, the gain would be lost
  reverse = estimators.paired_difference(before, after)
  assert reverse.value == -found.value and reverse.high == -found.low


def test_the_interval_of_a_difference_of_shares_is_one_of_shares():
  after, before = np.array([1.0, 1, 1, 0.2]), np.zeros(4)
  found = estimators.paired_difference(after, before)
  assert found.high == 1.0 and found.value == pytest.approx(0.8)
  assert estimators.paired_difference(10 * after, before).high > 10  # others are not bounded


def test_a_paired_difference_needs_the_same_problems():
  with pytest.raises(ValueError, match="same problems"):
    estimators.paired_difference(np.zeros(3), np.zeros(4))
