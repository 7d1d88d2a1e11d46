"""A finding of a preflight: one line, green, amber or red, with its figure and what to change.

Red is what makes the run fail or teach nothing, amber what makes it slow or doubtful. Shares have
the 95 % intervals of `evaluate.estimators`, for a preflight sees few problems.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_jax.evaluate.estimators import Estimate

LEVELS = ("green", "amber", "red")


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that was looked at."""

  name: str
  level: str  # of LEVELS
  figure: str  # in words, with its numbers
  change: str = ""  # what to do about it; "" where nothing need be
  values: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the numbers, for JSON

  @property
  def line(self) -> str:
    """Level, name, figure, and what to change."""
    change = f": {self.change}" if self.change else ""
    return f"{self.level:<5}  {self.name:<9}  {self.figure}{change}"


def worst(findings: Sequence[Finding]) -> str:
  """The worst level among them."""
  return max((finding.level for finding in findings), key=LEVELS.index)


def told(estimate: Estimate) -> str:
  """A figure with its interval."""
  return f"{estimate.value:.3f} {interval(estimate)}"


def interval(estimate: Estimate) -> str:
  """The interval alone."""
  return f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def percent(estimate: Estimate) -> str:
  """A share with its interval, in per cent."""
  low, high = (f"{100 * x:.0f}" for x in (estimate.low, estimate.high))
  return f"{100 * estimate.value:.0f} % [{low}, {high}]"
