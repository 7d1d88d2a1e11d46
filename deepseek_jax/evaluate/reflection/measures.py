"""The figures of reflection: rates over completions and over re-checks, alone and over the base's.

Each is a sum over a sum (`ratios.Sums`). Those per re-check or change are of the turns that there
are, which are few where a model seldom turns: a figure's `samples` counts what it is a rate of, and
below FEWEST problems that have any there is no figure.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from deepseek_jax.evaluate.estimators import Estimate
from deepseek_jax.evaluate.evaluation import Evaluation
from deepseek_jax.evaluate.figures import Figure, figure
from deepseek_jax.evaluate.ratios import (
  Sums,
  bin_edges,
  difference,
  difference_at_equal_length,
  rate,
  share_of,
  strata,
)
from deepseek_jax.evaluate.reflection.turns import Trace
from deepseek_jax.evaluate.reflection.words import REFLECTION

FEWEST = 5  # problems
_BINS = 6  # of what is shown by length
EQUAL = "at equal length"

Counts = dict[str, np.ndarray]  # name -> [P, J]


@dataclasses.dataclass(frozen=True)
class Measure:
  """A rate; `kind` says what interval a single model's has."""

  name: str
  above: str  # of `Counts`
  below: str
  kind: str = "rate"  # or share, in [0, 1], or balance, in [-1, 1]
  scale: float = 1.0
  says: str = ""  # in words


MEASURES = (
  Measure("reflection_per_1000", "words", "tokens", "rate", 1000, "reflection words / 1000 tokens"),
  Measure("waits_per_1000", "wait", "tokens", "rate", 1000, "words for wait / 1000 tokens"),
  Measure("with_reflection", "reflects", "completions", "share", 1, "completions that reflect"),
  Measure("rechecks", "rechecks", "completions", "rate", 1, "re-checks per completion"),
  Measure("with_recheck", "rechecked", "completions", "share", 1, "completions with a re-check"),
  Measure("changed", "changed", "rechecks", "share", 1, "answer changed, of re-checks"),
  Measure("mended", "mended", "changed", "share", 1, "wrong to right, of changes"),
  Measure("spoiled", "spoiled", "changed", "share", 1, "right to wrong, of changes"),
  Measure("net", "net", "changed", "balance", 1, "wrong to right less right to wrong, of changes"),
  Measure("length", "tokens", "completions", "rate", 1, "tokens per completion"),
  Measure("pass@1", "correct", "completions", "share", 1, "right completions"),
)


def count(evaluation: Evaluation, traces: Sequence[Sequence[Trace]]) -> Counts:
  """What there is to count in each completion."""

  def each(of: Callable[[Trace], float]) -> np.ndarray:
    return np.array([[float(of(trace)) for trace in row] for row in traces])

  counts = {
    "completions": each(lambda t: 1),
    "tokens": np.asarray(evaluation.lengths_PJ, float),
    "correct": np.asarray(evaluation.correct_PJ, float),
    "words": each(lambda t: len(t.words)),
    "reflects": each(lambda t: bool(t.words)),
    "rechecks": each(lambda t: len(t.turns)),
    "rechecked": each(lambda t: bool(t.turns)),
    "changed": each(lambda t: sum(turn.changed for turn in t.turns)),
    "mended": each(lambda t: sum(_mends(*turn) for turn in t.turns)),
    "spoiled": each(lambda t: sum(_spoils(*turn) for turn in t.turns)),
  }
  for meaning in REFLECTION:
    counts[meaning] = each(lambda t: sum(word.meaning == meaning for word in t.words))  # noqa: B023
  return counts | {"net": counts["mended"] - counts["spoiled"]}


def _mends(changed: bool, before: bool, after: bool) -> bool:
  return changed and after and not before


def _spoils(changed: bool, before: bool, after: bool) -> bool:
  return changed and before and not after


def levels(stage: str, evaluation: Evaluation, counts: Counts) -> list[Figure]:
  """One model's figures, and pass@1 and the re-checks by length."""
  found = []
  for measure in MEASURES:
    sums = _sums(measure, counts)
    if _enough(sums):
      found += _figures(stage, evaluation, measure.name, _level(measure, sums), sums.below_PJ)
  return found


def gains(
  stage: str, base: str, evaluation: Evaluation, counts: Counts, other: Counts
) -> list[Figure]:
  """Each figure less the base's, paired over problems: as it is, and at equal length.

  `common_length` says for how much of the completions there are the base's of equal length.
  """
  kinds = [problem.task for problem in evaluation.problems]
  own, theirs = strata(counts["tokens"], other["tokens"], kinds)
  found = []
  for measure in MEASURES:
    sums = _sums(measure, counts), _sums(measure, other)
    if not all(map(_enough, sums)):
      continue
    name = f"{measure.name} over {base}"
    below_PJ = np.concatenate([s.below_PJ for s in sums])
    found += _figures(stage, evaluation, name, difference(*sums), below_PJ)
    if measure.name != "length":
      equal, _ = difference_at_equal_length(*sums, own, theirs)
      found += _figures(stage, evaluation, f"{name} {EQUAL}", equal, below_PJ)
  return found


def common_length(evaluation: Evaluation, counts: Counts, other: Counts) -> float:
  """The share of completions for which there are as many of the other model of equal length."""
  kinds = [problem.task for problem in evaluation.problems]
  own, theirs = (Sums(c["completions"], c["completions"]) for c in (counts, other))
  places = strata(counts["tokens"], other["tokens"], kinds)
  return difference_at_equal_length(own, theirs, *places)[1]


@dataclasses.dataclass(frozen=True)
class Bin:
  """A measure of several models in one of their common bins of length."""

  name: str  # `A-B` in tokens
  estimates: dict[str, Estimate | None]  # by model
  samples: dict[str, int]


def by_length(counts: dict[str, Counts], measure: Measure) -> list[Bin]:
  """A measure of several models in common bins of length, about as many completions in each."""
  pooled = np.concatenate([own["tokens"].ravel() for own in counts.values()])
  edges = bin_edges(pooled, _BINS)
  starts = [pooled.min(), *edges]
  ends = [*(edge - 1 for edge in edges), pooled.max()]
  places = {m: np.searchsorted(edges, own["tokens"], side="right") for m, own in counts.items()}
  found = []
  for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
    estimates: dict[str, Estimate | None] = {}
    for model, own in counts.items():
      sums = Sums(*(x_PJ * (places[model] == number) for x_PJ in _sums(measure, own)))
      estimates[model] = _level(measure, sums) if _enough(sums) else None
    name = f"{start:.0f}-{end:.0f}" if start < end else f"{start:.0f}"
    found.append(Bin(name, estimates, {m: int((x == number).sum()) for m, x in places.items()}))
  return found


def accuracy_by_length(evaluation: Evaluation, counts: dict[str, Counts]) -> list[Figure]:
  """pass@1 of several models in common bins of length: `pass@1 at A-B tokens`."""
  protocol = evaluation.protocol
  return [
    figure(
      model, protocol.label, f"pass@1 at {own.name} tokens", estimate, own.samples[model],
      protocol.seed,
    )
    for own in by_length(counts, measure_called("pass@1"))
    for model, estimate in own.estimates.items()
    if estimate is not None
  ]  # fmt: skip


def measure_called(name: str) -> Measure:
  """The measure of that name."""
  return next(measure for measure in MEASURES if measure.name == name)


def _sums(measure: Measure, counts: Counts) -> Sums:
  return Sums(measure.scale * counts[measure.above], counts[measure.below])


def _enough(sums: Sums) -> bool:
  return int((sums.below_PJ.sum(axis=1) > 0).sum()) >= FEWEST


def _level(measure: Measure, sums: Sums) -> Estimate | None:
  if measure.kind == "rate":
    return rate(sums, measure.scale)
  if measure.kind == "share":
    return share_of(sums)
  half = share_of(Sums((sums.above_PJ + sums.below_PJ) / 2, sums.below_PJ))
  return None if half is None else Estimate(*(2 * value - 1 for value in half))


def _figures(
  stage: str, evaluation: Evaluation, name: str, estimate: Estimate | None, below_PJ: np.ndarray
) -> list[Figure]:
  """The figure, if there is an estimate; of tokens, its samples are the completions."""
  if estimate is None:
    return []
  protocol = evaluation.protocol
  per_token = name.startswith(("reflection_per", "waits_per"))
  samples = int(np.size(below_PJ) if per_token else below_PJ.sum())
  return [figure(stage, protocol.label, name, estimate, samples, protocol.seed)]
