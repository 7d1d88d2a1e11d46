"""Pictures of reinforcement: what is rewarded beside what is right, and the parts of a reward."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek_jax.evaluate import drawing
from deepseek_jax.evaluate.charts import entitle, errors, without_hash
from deepseek_jax.evaluate.figures import Figure

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure as Canvas

_RIGHT, _EARNED, _LEARNED, _HELD = "#2f7d43", "#3b6fb6", "#d1742f", "#222222"
_STD = "_std"
_MARKED = 40  # points of a curve of held-out figures; of more, so many are chosen evenly

Records = Sequence[Mapping[str, Any]]


def reward_chart(records: Records, held_out: Sequence[tuple[int, Figure]] = ()) -> str | None:
  """The share of right answers, and held-out pass@1, beside the reward and its learned part.

  Shares are on the left axis, rewards on the right: where the reward rises and what is right does
  not, the reward is gamed. `held_out` are figures with the steps they were measured after. None
  unless right answers were logged twice.
  """
  if len(_points(records, "correct")) < 2:
    return None

  def draw(canvas: "Canvas") -> None:
    left = canvas.add_axes((0.075, 0.13, 0.84, 0.72))
    right = left.twinx()
    right.spines["right"].set_visible(True)
    right.grid(False)
    _line(left, records, "correct", _RIGHT, "right answers, by the verifier")
    _line(right, records, "reward", _EARNED, "reward (right axis)")
    _line(right, records, "reward_learned", _LEARNED, "reward model's figure (right axis)")
    for i, (name, points) in enumerate(_by_protocol(held_out).items()):
      figures = [figure for _, figure in points]
      left.errorbar(
        [step for step, _ in points],
        [figure["value"] for figure in figures],
        yerr=errors(figures),
        fmt="osDv"[i % 4],
        markersize=4,
        capsize=2,
        color=_HELD,
        label=f"held out, {name}",
      )
    left.set_ylim(-0.02, 1.02)
    left.set(xlabel="iteration", ylabel="share of right answers")
    right.set_ylabel("reward per completion")
    canvas.legend(loc="upper center", frameon=False, ncols=3)

  return drawing.svg(draw, 9.6, 3.6)


def part_charts(records: Records) -> str | None:
  """The reward and each of its parts: means, and a standard deviation to both sides of them.

  None if none was logged twice.
  """
  names = [name for record in records for name in record if name.endswith(_STD)]
  parts = [(_mean_of(name, records), name) for name in dict.fromkeys(names)]
  parts = [(mean, std) for mean, std in parts if len(_points(records, mean, std)) > 1]
  if not parts:
    return None

  def draw(canvas: "Canvas") -> None:
    for axes, (mean, std) in zip(drawing.grid(canvas, len(parts), 3, drawing.STEPS), parts):
      x, y, spread = drawing.thinned(_points(records, mean, std))
      axes.fill_between(x, y - spread, y + spread, color="#d5e1f1", linewidth=0)
      axes.plot(x, y, color=_EARNED, linewidth=1.2)
      entitle(axes, mean)
      axes.set_xlabel("iteration")

  return drawing.svg(draw, 9.6, 2.3 * math.ceil(len(parts) / 3))


def held_out_charts(measured: Sequence[tuple[int, Figure]], metrics: Sequence[str]) -> str | None:
  """Held-out figures against the step after which they were measured, with 95 % intervals."""
  present = [m for m in metrics if any(figure["metric"] == m for _, figure in measured)]
  if not present:
    return None

  def draw(canvas: "Canvas") -> None:
    for axes, metric in zip(drawing.grid(canvas, len(present), 2, drawing.STEPS), present):
      chosen = [(step, figure) for step, figure in measured if figure["metric"] == metric]
      for i, (name, points) in enumerate(_by_protocol(chosen).items()):
        colour = drawing.COLOURS[i % len(drawing.COLOURS)]
        x = [step for step, _ in points]
        low, high = np.array([figure["ci95"] for _, figure in points]).T
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        values = [figure["value"] for _, figure in points]
        axes.plot(x, values, color=colour, marker="o", markersize=3, linewidth=1.2, label=name)
      entitle(axes, metric)
      axes.set_xlabel("step")
      axes.legend(frameon=False, fontsize=8)

  return drawing.svg(draw, 9.6, 2.8 * math.ceil(len(present) / 2))


def _line(axes: "Axes", records: Records, name: str, colour: str, label: str) -> None:
  """A logged number as a smooth line over its values, if it was logged twice."""
  points = _points(records, name)
  if len(points) < 2:
    return
  x, y = drawing.thinned(points)
  smooth = drawing.smoothed(y)
  if smooth is not None:
    axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.3)
  axes.plot(x, y if smooth is None else smooth, color=colour, linewidth=1.6, label=label)


def _points(records: Records, *names: str) -> np.ndarray:
  """[N, X] of the step and the values of records that have them all."""
  rows = [
    [record["step"], *(record[name] for name in names)]
    for record in records
    if all(drawing.is_number(record.get(name)) for name in names)
  ]
  return np.array(rows, np.float64).reshape(-1, 1 + len(names))


def _mean_of(deviation: str, records: Records) -> str:
  """The name of the mean that a deviation belongs to: a verifier's figures have their own names."""
  name = deviation.removesuffix(_STD)
  logged = any(name in record for record in records)
  return name if logged else name.removeprefix("reward_")


def _by_protocol(
  measured: Sequence[tuple[int, Figure]],
) -> dict[str, list[tuple[int, Figure]]]:
  """The points of each protocol in their order, by a name for the legend: its hash is left out
  where no other protocol has the same name. Of many points some are chosen."""
  found: dict[str, list[tuple[int, Figure]]] = {}
  for step, figure in measured:
    found.setdefault(figure["benchmark"], []).append((step, figure))
  short = [without_hash(label) for label in found]
  return {
    name if short.count(name) == 1 else label: [
      points[i] for i in drawing.evenly(len(points), _MARKED)
    ]
    for name, (label, points) in zip(short, found.items(), strict=True)
  }
