"""Rates over samples: against plain sums, their promised coverage, and equal length."""

import numpy as np
import pytest

from deepseek_jax.evaluate.ratios import (
  Sums,
  bin_edges,
  difference,
  difference_at_equal_length,
  rate,
  share_of,
  strata,
)


def lengths_of(rng, mean, problems=60, samples=6):
  """Lengths that spread within a problem and between problems."""
  own = rng.gamma(4.0, mean / 4, size=(problems, 1))
  return 5 + np.floor(rng.gamma(3.0, own / 3, size=(problems, samples)))


def equal(after, before, after_length, before_length, kinds=None):
  kinds = kinds or ["a"] * len(after_length)
  return difference_at_equal_length(after, before, *strata(after_length, before_length, kinds))


def test_a_rate_is_the_sum_over_the_sum():
  above, below = np.array([[1.0, 0], [4, 2]]), np.array([[10.0, 20], [30, 40]])
  assert rate(Sums(above, below)).value == 7 / 100
  assert share_of(Sums(above, below)).value == 7 / 100
  assert rate(Sums(above, 0 * below)) is None and share_of(Sums(above, 0 * below)) is None
  with pytest.raises(ValueError, match="between 0 and 1"):
    share_of(Sums(below, above))


@pytest.mark.parametrize("estimator", [rate, share_of])
def test_intervals_cover_the_truth_as_often_as_they_say(estimator):
  rng = np.random.default_rng(1)
  hits = []
  for _ in range(300):
    below = rng.poisson(2.0, size=(80, 4)).astype(float)
    chance = rng.beta(2, 4, size=(80, 1))  # problems differ, and so do how often they turn
    found = estimator(Sums(rng.binomial(below.astype(int), chance).astype(float), below))
    hits.append(found.low <= 1 / 3 <= found.high)
  assert 0.91 <= np.mean(hits) <= 0.985


def test_a_share_of_few_is_no_point():
  some = np.ones((6, 1))
  found = share_of(Sums(some, some))
  assert found.high == 1 and found.low < 0.7
  assert share_of(Sums(some[:1], some[:1])) is None


def test_none_seen_is_not_none_for_certain():
  """Of a thousand tokens a problem: none among few says less than none among many."""
  highs = []
  for problems in (10, 100):
    below = np.full((problems, 4), 250.0)
    found = rate(Sums(0 * below, below), 1000)
    assert found[:2] == (0, 0)
    highs.append(found.high)
    chance = share_of(Sums(np.zeros((problems, 1)), np.ones((problems, 1)))).high
    assert found.high == pytest.approx(chance)
  assert 0.2 < highs[0] < 0.4 and highs[1] < 0.05
  assert rate(Sums(0 * below, 0 * below)) is None


def test_a_model_does_not_differ_from_itself():
  rng = np.random.default_rng(2)
  length = lengths_of(rng, 30)
  sums = Sums(rng.poisson(length / 9).astype(float), length)
  assert difference(sums, sums) == (0, 0, 0)
  found, common = equal(sums, sums, length, length)
  assert found == (0, 0, 0) and common == pytest.approx(1)


def test_equal_length_is_what_plain_loops_over_strata_give():
  rng = np.random.default_rng(3)
  lengths = [lengths_of(rng, mean, 12, 4) for mean in (20, 35)]
  sums = [Sums(rng.poisson(x / 8).astype(float), x) for x in lengths]
  kinds = ["a", "b"] * 6
  places = strata(*lengths, kinds)
  total = weight = 0.0
  for stratum in np.unique(np.concatenate([x.ravel() for x in places])):
    parts = [[x[place == stratum].sum() for x in own] for own, place in zip(sums, places)]
    shares = [part[1] / own.below_PJ.sum() for part, own in zip(parts, sums)]
    if min(shares) > 0:
      total += min(shares) * (parts[0][0] / parts[0][1] - parts[1][0] / parts[1][1])
      weight += min(shares)
  found, common = difference_at_equal_length(*sums, *places)
  assert found.value == pytest.approx(total / weight) and common == pytest.approx(weight)
  for kind in "ab":  # no stratum holds problems of both kinds
    rows = [i for i, own in enumerate(kinds) if own == kind]
    others = [i for i, own in enumerate(kinds) if own != kind]
    assert not set(places[0][rows].ravel()) & set(places[0][others].ravel())


@pytest.mark.parametrize("coarse", [True, False])
def test_reflection_that_is_only_length_is_no_difference_at_equal_length(coarse):
  """Words grow faster than length; one model writes twice as much as the other."""
  rng = np.random.default_rng(4)
  lengths = [lengths_of(rng, mean, 150, 8) for mean in (44, 22)]
  if coarse:
    lengths = [10 + np.round(x / 15) * 10 for x in lengths]
  after, before = (Sums(np.maximum(x - 15, 0) ** 1.3 / 10, x) for x in lengths)
  crude = difference(after, before)
  assert crude.low > 0.05
  found, common = equal(after, before, *lengths)
  assert 0.2 < common < 0.9
  if coarse:  # each length is a stratum of its own
    assert found == pytest.approx((0, 0, 0), abs=1e-12)
  else:
    assert abs(found.value) < 0.03 * crude.value


def test_words_by_chance_at_one_rate_given_length_do_not_differ_either():
  rng = np.random.default_rng(5)
  lengths = [lengths_of(rng, mean, 150, 8) for mean in (44, 22)]
  after, before = (Sums(rng.poisson(np.maximum(x - 15, 0) / 9).astype(float), x) for x in lengths)
  found, _ = equal(after, before, *lengths)
  assert difference(after, before).low > 0 and found.low < 0 < found.high


def test_what_is_more_at_every_length_stays_a_difference():
  rng = np.random.default_rng(6)
  lengths = [lengths_of(rng, mean, 150, 8) for mean in (30, 30)]
  after, before = (
    Sums(rng.poisson(factor * x / 20).astype(float), x) for factor, x in zip((2, 1), lengths)
  )
  found, _ = equal(after, before, *lengths)
  assert found.low < 1 / 20 < found.high and found.low > 0.04


def test_nothing_is_compared_where_no_lengths_are_shared():
  ones = np.ones((30, 4))
  found, common = equal(Sums(ones, ones), Sums(0 * ones, ones), 50 * ones, 10 * ones)
  assert found is None and common == 0


def test_bins_are_of_single_lengths_or_of_equal_parts():
  few = np.repeat([5, 7, 20], [200, 1, 99])
  assert bin_edges(few, 3).tolist() == [7, 20]
  many = np.random.default_rng(7).integers(0, 1000, 4000)
  edges = bin_edges(many, 8)
  counts = np.bincount(np.searchsorted(edges, many, side="right"))
  assert len(counts) == 8 and counts.min() > 450 and counts.max() < 550
  assert bin_edges(many, 1).size == 0


def test_few_samples_are_sorted_by_length_too():
  """Six problems, and a model that says more words because it writes more."""
  lengths = [np.array([[10.0, 20, 20], [20, 20, 20]]), np.array([[10.0, 10, 20], [10, 10, 10]])]
  lengths = [np.tile(x, (3, 1)) for x in lengths]
  found, _ = equal(*(Sums(x - 10, x) for x in lengths), *lengths)
  assert found == (0, 0, 0)
