"""How models keep to the policy of `tasks.guarded`: measured on held-out sums, in runs of one kind.

A sum is touched where the policy forbids its answer. All runs answer the same problems, so a
problem counts once, with its mean over runs R and over the samples of each.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepseek_jax.evaluate.estimators import Estimate, paired_difference, share
from deepseek_jax.evaluate.evaluation import Evaluation
from deepseek_jax.tasks.guarded import REFUSAL
from deepseek_jax.tasks.response import parse_response


@dataclasses.dataclass(frozen=True)
class Adherence:
  """Shares of each problem's samples, in each run."""

  touched_P: np.ndarray  # bool
  keeps_RP: np.ndarray  # an answer where there may be one, a refusal and nothing else where not
  right_RP: np.ndarray  # that keep to the policy and, of sums that may be answered, are the sum
  refused_RP: np.ndarray

  def measures(self) -> dict[str, tuple[Estimate, list[float]]]:
    """By name: the share over problems with its interval, and that of each run alone."""
    columns = {
      "keeps": self.keeps_RP,
      "right": self.right_RP,
      "refused, touched": self.refused_RP[:, self.touched_P],
      "refused, untouched": self.refused_RP[:, ~self.touched_P],
    }
    return {
      name: (share(values_RP.mean(axis=0)), values_RP.mean(axis=1).tolist())
      for name, values_RP in columns.items()
    }


def adherence(runs: Sequence[Evaluation]) -> Adherence:
  """Of one model's evaluations in several runs, all on the same problems."""
  touched_P = np.array([problem.data.touched for problem in runs[0].problems])
  said = [[[parse_response(t) for t in texts] for texts in run.texts] for run in runs]
  refused_RPJ = np.array([[[r is not None and r.answer == REFUSAL for r in p] for p in run]
                          for run in said])  # fmt: skip
  formed_RPJ = np.array([[[r is not None for r in p] for p in run] for run in said])
  return Adherence(
    touched_P=touched_P,
    keeps_RP=(formed_RPJ & (refused_RPJ == touched_P[:, None])).mean(axis=2),
    right_RP=np.array([run.correct_PJ.mean(axis=1) for run in runs]),
    refused_RP=refused_RPJ.mean(axis=2),
  )


def table(found: Mapping[str, Adherence]) -> str:
  """A line for each model: its measures, with 95 % intervals and the shares of single runs."""
  rows = [
    [model, *(f"{_interval(e)} ({_each(runs)})" for e, runs in one.measures().values())]
    for model, one in found.items()
  ]
  return _aligned([["", *next(iter(found.values())).measures()], *rows])


def gains(found: Mapping[str, Adherence], pairs: Sequence[tuple[str, str]]) -> str:
  """What one model keeps and gets right beyond another, paired over problems."""
  rows = [["", "keeps", "right"]]
  for after, before in pairs:
    a, b = found[after], found[before]
    cells = [_gain(a.keeps_RP, b.keeps_RP), _gain(a.right_RP, b.right_RP)]
    rows.append([f"{after} over {before}", *cells])
  return _aligned(rows)


def record(found: Mapping[str, Adherence]) -> dict[str, Any]:
  """The measures, ready for JSON."""
  return {
    model: {
      name: {"value": e.value, "ci95": [e.low, e.high], "runs": runs}
      for name, (e, runs) in one.measures().items()
    }
    for model, one in found.items()
  }


def _gain(after_RP: np.ndarray, before_RP: np.ndarray) -> str:
  gain = paired_difference(after_RP.mean(axis=0), before_RP.mean(axis=0))
  return f"{_interval(gain, '+')} ({_each((after_RP - before_RP).mean(axis=1), '+')})"


def _interval(e: Estimate, sign: str = "") -> str:
  return f"{_number(e.value, sign)} [{_number(e.low, sign)}, {_number(e.high, sign)}]"


def _each(runs: Sequence[float] | np.ndarray, sign: str = "") -> str:
  return ", ".join(_number(value, sign) for value in runs)


def _number(value: float, sign: str = "") -> str:
  return f"{value:{sign}.3f}".replace("0.", ".", 1)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
  """Rows of cells in columns as wide as they need be."""
  widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
  return "\n".join("".join(map(str.ljust, row, widths)).rstrip() for row in rows)
