"""Loss curves of runs on the same batches, beside each other."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

_SMOOTHING = 0.9  # of the curves of 2412.19437, figure 10


@dataclasses.dataclass(frozen=True)
class Difference:
  """A run's loss next to another's over the last quarter of both."""

  loss: float  # mean, nats per token
  relative: float  # of the means: (loss - other) / other
  largest: float  # magnitude of the smoothed curves' relative difference
  steps: int  # of the quarter


def difference(losses: Sequence[float], other: Sequence[float]) -> Difference:
  """What sets `losses` apart from `other`, step by step of equal runs' lengths."""
  ours, theirs = np.asarray(losses, np.float64), np.asarray(other, np.float64)
  if ours.shape != theirs.shape or not len(ours):
    raise ValueError(f"curves of {len(ours)} and {len(theirs)} steps cannot be compared.")
  last = slice(len(ours) - max(1, len(ours) // 4), None)
  mean, other_mean = ours[last].mean(), theirs[last].mean()
  return Difference(
    loss=float(mean),
    relative=float(mean / other_mean - 1),
    largest=float(np.abs(relative_curve(losses, other)[last]).max()),
    steps=len(ours[last]),
  )


def relative_curve(losses: Sequence[float], other: Sequence[float]) -> np.ndarray:
  """(loss - other) / other of the smoothed curves, at every step."""
  return smooth(losses) / smooth(other) - 1


def smooth(losses: Sequence[float]) -> np.ndarray:
  """A running mean that forgets a tenth at every step, without leaning to its start."""
  total, weight, means = 0.0, 0.0, []
  for loss in losses:
    total = _SMOOTHING * total + (1 - _SMOOTHING) * loss
    weight = _SMOOTHING * weight + (1 - _SMOOTHING)
    means.append(total / weight)
  return np.array(means)


def table(losses: Mapping[str, Sequence[float]], reference: str) -> str:
  """A line for each run: its loss, and how far it lies from `reference`, in per cent."""
  lines = [f"{'run':<22}{'loss':>9}{'difference':>13}{'largest':>11}"]
  for name, curve in losses.items():
    found = difference(curve, losses[reference])
    shares = f"{100 * found.relative:>+12.3f}%{100 * found.largest:>10.3f}%"
    lines.append(f"{name:<22}{found.loss:>9.4f}" + ("" if name == reference else shares))
  return "\n".join(lines)
