"""Estimates from several samples per problem, and their 95 % intervals.

The samples of one problem are not independent, so problems are the unit of every interval: each
problem contributes one number, and the spread between problems gives the error. An array here has
axis P for problems and J for the samples of a problem.
"""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

CONFIDENCE = 0.95
_UPPER = 0.5 + CONFIDENCE / 2


class Estimate(NamedTuple):
  """A mean over problems with its 95 % interval."""

  value: float
  low: float
  high: float


def pass_at_k(correct_PJ: np.ndarray, k: int) -> np.ndarray:
  """Each problem's chance that at least one of k samples is right, pass_P.

  The unbiased estimator 1 - C(n - c, k) / C(n, k) for c right of n (2107.03374, equation 1).
  Raises ValueError where a problem has fewer than k samples or a judgement is not 0 or 1.
  """
  correct_PJ = np.asarray(correct_PJ)
  if correct_PJ.ndim != 2:
    raise ValueError("pass@k needs the same number of samples for every problem.")
  count = correct_PJ.shape[1]
  if not 1 <= k <= count:
    raise ValueError(f"pass@{k} needs at least {k} samples per problem; there are {count}.")
  if not np.isin(correct_PJ, (0, 1)).all():
    raise ValueError("pass@k is defined for right and wrong only, not for partial credit.")
  by_right = [1 - math.comb(count - c, k) / math.comb(count, k) for c in range(count + 1)]
  return np.array(by_right)[correct_PJ.sum(axis=1).astype(int)]


def differing_at_k(values_PJ: np.ndarray, k: int) -> np.ndarray:
  """Each problem's chance that k samples do not all have the same value, differing_P.

  Such a group teaches something: of right and wrong with pass rate p it is 1 - p^k - (1 - p)^k. The
  unbiased estimate is the share of all choices of k of its J samples: 1 - sum over values v of
  C(n_v, k) / C(J, k). ValueError where there are fewer than k samples.
  """
  values_PJ = np.asarray(values_PJ)
  if values_PJ.ndim != 2 or not 1 <= k <= values_PJ.shape[1]:
    raise ValueError(f"differing@{k} needs at least {k} samples of every problem.")
  ways = math.comb(values_PJ.shape[1], k)
  counts = [np.unique(values_J, return_counts=True)[1] for values_J in values_PJ]
  return np.array([1 - sum(math.comb(int(n), k) for n in each) / ways for each in counts])


def differing_beyond(correct_PJ: np.ndarray, k: int) -> float:
  """The mean of 1 - p^k - (1 - p)^k over problems, for any k, also above J: an extrapolation.

  Pass rates p are taken to be Beta distributed. Its mean and its mean square are those of the
  samples, without bias, c / J and c (c - 1) / (J (J - 1)) of c right; so at k = 2 it is the mean of
  `differing_at_k`. Plugging c / J in would count problems never solved as never to be solved.
  """
  correct_PJ = np.asarray(correct_PJ)
  if correct_PJ.ndim != 2 or correct_PJ.shape[1] < 2 or not np.isin(correct_PJ, (0, 1)).all():
    raise ValueError("differing beyond J needs two or more samples that are right or wrong.")
  size, right_P = correct_PJ.shape[1], correct_PJ.sum(axis=1)
  p = float(right_P.mean()) / size
  square = float((right_P * (right_P - 1)).mean()) / (size * (size - 1))
  variance = min(square - p**2, p * (1 - p))
  if variance <= 0:
    return 1 - p**k - (1 - p) ** k
  total = p * (1 - p) / variance - 1  # of the Beta's two parameters
  i = np.arange(k)
  alike = [np.prod((total * q + i) / np.maximum(total + i, 1e-300)) for q in (p, 1 - p)]
  return float(1 - sum(alike)) if total > 0 else 0.0


def consensus(answers_PJ: Sequence[Sequence[str | None]], correct_PJ: np.ndarray) -> np.ndarray:
  """Whether the commonest answer of each problem is right, cons_P: self-consistency, maj@J.

  None is no answer and has no vote. Of several commonest answers one is taken at random: the mean
  over them. A problem without any answer counts as wrong.
  """
  values = []
  for answers, correct in zip(answers_PJ, np.asarray(correct_PJ), strict=True):
    votes = collections.Counter(answer for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    right = [
      float(np.mean([c for a, c in zip(answers, correct, strict=True) if a == answer]))
      for answer, count in votes.items()
      if count == most
    ]
    values.append(float(np.mean(right)) if right else 0.0)
  return np.array(values)


def mean(values_P: np.ndarray) -> Estimate:
  """The mean over problems with Student's interval; one problem has no interval but itself."""
  values_P = np.asarray(values_P, float)
  value, reach = float(values_P.mean()), _reach(values_P)
  return Estimate(value, value - reach, value + reach)


def share(values_P: np.ndarray) -> Estimate:
  """The mean of numbers in [0, 1] with Wilson's interval at the effective number of trials.

  That is the number of independent yes-or-no trials that would have the observed variance between
  problems. Unlike `mean` it stays in [0, 1], and is not a point when all problems come out equal.
  """
  values_P = np.asarray(values_P, float)
  if ((values_P < 0) | (values_P > 1)).any():
    raise ValueError("A share is a mean of numbers between 0 and 1.")
  count, value = len(values_P), float(values_P.mean())
  variance = float(values_P.var(ddof=1)) / count if count > 1 else 0.0
  trials = value * (1 - value) / variance if variance > 0 else count
  z = special.stdtrit(count - 1, _UPPER) if count > 1 else special.ndtri(_UPPER)
  centre = (value + z**2 / (2 * trials)) / (1 + z**2 / trials)
  spread = math.sqrt(value * (1 - value) / trials + z**2 / (4 * trials**2))
  reach = z / (1 + z**2 / trials) * spread
  return Estimate(value, max(0.0, min(value, centre - reach)), min(1.0, max(value, centre + reach)))


def paired_difference(after_P: np.ndarray, before_P: np.ndarray) -> Estimate:
  """The mean of `after - before` over the same problems, with Student's interval.

  A gain is claimed where the interval excludes zero. That of shares stays in [-1, 1]. Raises
  ValueError for unequal lengths.
  """
  after_P, before_P = np.asarray(after_P, float), np.asarray(before_P, float)
  if after_P.shape != before_P.shape or after_P.ndim != 1:
    raise ValueError("A paired difference needs the same problems on both sides.")
  value, low, high = mean(after_P - before_P)
  if all(((x_P >= 0) & (x_P <= 1)).all() for x_P in (after_P, before_P)):
    low, high = max(-1.0, low), min(1.0, high)
  return Estimate(value, low, high)


def _reach(values_P: np.ndarray) -> float:
  """Half the width of Student's interval of the mean."""
  count = len(values_P)
  if count < 2:
    return 0.0
  error = float(values_P.std(ddof=1)) / math.sqrt(count)
  return float(special.stdtrit(count - 1, _UPPER)) * error
