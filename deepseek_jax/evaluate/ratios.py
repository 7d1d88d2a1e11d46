"""Ratios of sums over samples with 95 % intervals: alone, paired by problem, and at equal length.

A rate such as words per token or changes per re-check is a sum over a sum, each over all samples of
all problems. Problems are drawn anew with all their samples, and both models' of a problem together
(the bootstrap; percentiles of 2,000 drawings, the same ones each time).

At equal length: samples are sorted into strata of one kind of problem and, nearly, one length. The
models' rates are subtracted within each stratum, and the differences are weighed by what both have
of what the rate is per: the smaller of their two shares. So what a model does only because it
writes at greater length, as its peer does where it writes as much, is no difference.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from deepseek_jax.evaluate.estimators import CONFIDENCE, Estimate

DRAWINGS = 2000
LEAST_COMMON = 0.05  # of the shares' sum, 1 where both are alike; with less nothing is compared
_STRATA = (8, 32)  # of one kind of problem, at least and at most, if there are as many lengths
_SAMPLES = 40  # of both models together in a stratum, between these
_UPPER = 0.5 + CONFIDENCE / 2


class Sums(NamedTuple):
  """What a rate is made of, by problem P and sample J: the sum of `above` over that of `below`."""

  above_PJ: np.ndarray
  below_PJ: np.ndarray


def rate(sums: Sums, unit: float = 1.0) -> Estimate | None:
  """The rate with its bootstrapped interval; None where there is nothing below.

  Where there is nothing above, drawing anew shows nothing either: the interval reaches up to one
  `unit` for each problem that may have one, by Wilson's interval of none among so many.
  """
  if not sums.above_PJ.any():
    present = sums.below_PJ[(sums.below_PJ > 0).any(axis=1)].sum(axis=1)
    most = share_of(Sums(np.zeros((len(present), 1)), np.ones((len(present), 1))))
    return most and Estimate(0.0, 0.0, most.high * unit / float(present.mean()))
  draws_RP = _draws(len(sums.above_PJ))
  above_R, below_R = (draws_RP @ x_PJ.sum(axis=1) for x_PJ in sums)
  return _estimate(_quotient(above_R, below_R))


def share_of(sums: Sums) -> Estimate | None:
  """A rate of some among others, in [0, 1], with Wilson's interval as `estimators.share` has it.

  The effective number of trials is that which has the rate's variance between problems (of the
  linearised ratio), or where there is none, the number of problems that have any.
  """
  above_P, below_P = (x_PJ.sum(axis=1) for x_PJ in sums)
  present, total = int((below_P > 0).sum()), float(below_P.sum())
  if present < 2:
    return None
  value = float(above_P.sum()) / total
  if not 0 <= value <= 1:
    raise ValueError("A share is a rate between 0 and 1.")
  variance = float(((above_P - value * below_P) ** 2).sum()) * present / (present - 1) / total**2
  trials = value * (1 - value) / variance if variance > 0 else present
  z = special.stdtrit(present - 1, _UPPER)
  centre = (value + z**2 / (2 * trials)) / (1 + z**2 / trials)
  reach = (
    z / (1 + z**2 / trials) * math.sqrt(value * (1 - value) / trials + (z / (2 * trials)) ** 2)
  )
  return Estimate(value, max(0.0, min(value, centre - reach)), min(1.0, max(value, centre + reach)))


def difference(after: Sums, before: Sums) -> Estimate | None:
  """One rate less the other, over the same problems."""
  draws_RP = _draws(len(after.above_PJ))
  rates = [_quotient(*(draws_RP @ x_PJ.sum(axis=1) for x_PJ in sums)) for sums in (after, before)]
  return _estimate(rates[0] - rates[1])


def strata(
  after_PJ: np.ndarray, before_PJ: np.ndarray, kinds_P: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
  """The stratum of each sample of two models, by its length and its problem's kind."""
  found = [np.zeros(np.shape(x_PJ), int) for x_PJ in (after_PJ, before_PJ)]
  base = 0
  for kind in dict.fromkeys(kinds_P):
    rows = [p for p, own in enumerate(kinds_P) if own == kind]
    lengths = np.concatenate([after_PJ[rows].ravel(), before_PJ[rows].ravel()])
    edges = bin_edges(lengths, int(np.clip(len(lengths) // _SAMPLES, *_STRATA)))
    for stratum_PJ, lengths_PJ in zip(found, (after_PJ, before_PJ), strict=True):
      stratum_PJ[rows] = base + np.searchsorted(edges, lengths_PJ[rows], side="right")
    base += len(edges) + 1
  return found[0], found[1]


def bin_edges(lengths: np.ndarray, count: int) -> np.ndarray:
  """The lengths at which the second and the further bins begin, each of about as many samples.

  Where there are no more distinct lengths than bins, each has a bin of its own.
  """
  levels = np.unique(lengths)
  if len(levels) <= count:
    return levels[1:]
  inner = np.quantile(lengths, np.linspace(0, 1, count + 1)[1:-1], method="higher")
  return np.unique(inner[inner > levels[0]])


def difference_at_equal_length(
  after: Sums, before: Sums, after_strata_PJ: np.ndarray, before_strata_PJ: np.ndarray
) -> tuple[Estimate | None, float]:
  """See the head of the file; also what the models have in common, 0 to 1.

  None where that is less than LEAST_COMMON.
  """
  count = 1 + max(int(after_strata_PJ.max()), int(before_strata_PJ.max()))
  draws_RP = _draws(len(after.above_PJ))
  rates, shares = [], []
  for sums, strata_PJ in ((after, after_strata_PJ), (before, before_strata_PJ)):
    above_RS, below_RS = (draws_RP @ _by_stratum(x_PJ, strata_PJ, count) for x_PJ in sums)
    rates.append(np.nan_to_num(_quotient(above_RS, below_RS)))
    shares.append(_quotient(below_RS, below_RS.sum(axis=1, keepdims=True)))
  common_RS = np.minimum(*shares)
  common = float(np.nan_to_num(common_RS[0].sum()))
  if common < LEAST_COMMON:
    return None, common
  sum_R = (common_RS * (rates[0] - rates[1])).sum(axis=1)
  return _estimate(_quotient(sum_R, common_RS.sum(axis=1))), common


def _by_stratum(x_PJ: np.ndarray, strata_PJ: np.ndarray, count: int) -> np.ndarray:
  """Each problem's sum within each stratum, [P, S]."""
  sums_PS = np.zeros((len(x_PJ), count))
  np.add.at(sums_PS, (np.arange(len(x_PJ))[:, None], strata_PJ), x_PJ)
  return sums_PS


@functools.lru_cache(maxsize=4)
def _draws(problems: int) -> np.ndarray:
  """How often each problem is drawn, [R, P]; in the first row each is, once."""
  rng = np.random.default_rng(0)
  drawn_RP = rng.multinomial(problems, np.full(problems, 1 / problems), size=DRAWINGS)
  return np.concatenate([np.ones((1, problems)), drawn_RP])


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
  """NaN where there is nothing below."""
  return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _estimate(values_R: np.ndarray) -> Estimate | None:
  """The first value, with the interval of those others that are numbers."""
  value = float(values_R[0])
  if not math.isfinite(value) or np.isnan(values_R).mean() > 1 - CONFIDENCE:
    return None
  low, high = np.nanpercentile(values_R[1:], [100 * (1 - _UPPER), 100 * _UPPER])
  return Estimate(value, min(float(low), value), max(float(high), value))
