"""The report's pictures, as self-contained SVG text.

Margins are fixed and letters stay letters, which the reader's own font draws: measuring every
label to fit them in, and writing letters as outlines, took two thirds of a picture's time.
Matplotlib is loaded with the first picture, which most programs never draw.
"""

import hashlib
import importlib.metadata
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek_jax.evaluate.estimators import Estimate
from deepseek_jax.evaluate.figures import Figure, stage_order

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure as Canvas

# What a logged or reported number means, and its unit. Curves are drawn in this order.
LABELS: dict[str, tuple[str, str]] = {
  "reward": ("Reward", "per completion"),
  "correct": ("Right answers", "share"),
  "length": ("Length", "tokens per completion"),
  "loss": ("Loss", "objective"),
  "ce": ("Next-token loss", "nats per token"),
  "mtp_ce": ("Multi-token-prediction loss", "nats per token"),
  "entropy": ("Entropy", "nats per token"),
  "max_violation": ("Expert load above its mean", "fraction, worst expert"),
  "language": ("Thought in the prompt's language", "share of words"),
  "format": ("Well-formed", "share"),
  "reward_overlong": ("Punishment of length", "per completion"),
  "reward_cosine": ("Cosine reward", "per completion"),
  "reward_repetition": ("Penalty for repetition", "per completion"),
  "truncated": ("Cut off", "share"),
  "zero_variance": ("Groups of equal reward", "share"),
  "kl": ("Divergence from the reference", "nats per token"),
  "clipped": ("Clipped ratios", "share of tokens"),
  "experts_differ": ("Tokens with other experts", "share"),
  "grad_norm": ("Gradient norm", "before clipping"),
  "balance": ("Balance loss", "before its coefficient"),
  "learning_rate": ("Learning rate", ""),
  "pass@1": ("pass@1", "share of problems"),
  "reflection_words": ("Reflection words", "per completion"),
  "waits": ("Words for `wait`", "per completion"),
  "with_check": ("With a check", "share of completions"),
  "language_share": ("Thought in the prompt's language", "share of words"),
}
_HIDDEN = ("step", "tokens", "time", "seconds", "wall", "eta")  # not worth a curve
_PANELS = 12
_POINTS = 400  # of a curve; more are averaged
_COLOURS = ("#3b6fb6", "#d1742f", "#4b9a5f", "#8a5fb0", "#b5473f", "#6f6f6f")
_STYLE: dict[Any, Any] = {
  "font.size": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": "#e3e3e3",
  "axes.titlesize": 10,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.titley": 1.0,  # where it is; else it is moved out of the labels' way, which are measured
  "svg.fonttype": "none",
  "svg.hashsalt": "deepseek_jax",  # equal data gives equal bytes
}
_LEFT, _RIGHT, _TOP = 0.75, 0.1, 0.28  # inches around a panel, for its labels
_NAMED, _SLANTED, _STEPS = 0.3, 0.72, 0.5  # below it: stages, stages aslant, numbers and their name


def stage_chart(figures: Sequence[Figure], metric: str) -> str:
  """One metric over the stages with 95 % intervals, a series for each benchmark and seed."""
  chosen = [f for f in figures if f["metric"] == metric]
  stages = stage_order(f["stage"] for f in chosen)
  several_seeds = len({f["seed"] for f in chosen}) > 1
  series: dict[str, list[Figure]] = {}
  for f in chosen:
    seed = f", seed {f['seed']}" if several_seeds else ""
    series.setdefault(_without_hash(f["benchmark"]) + seed, []).append(f)

  def draw(canvas: "Canvas") -> None:
    (axes,) = _grid(canvas, 1, 1, _NAMED)
    for i, (name, points) in enumerate(series.items()):
      shift = 0.12 * (i - (len(series) - 1) / 2)
      x = [stages.index(f["stage"]) + shift for f in points]
      axes.errorbar(
        x,
        [f["value"] for f in points],
        yerr=_errors(points),
        fmt="o",
        markersize=5,
        capsize=3,
        color=_COLOURS[i % len(_COLOURS)],
        label=name,
      )
    _name_stages(axes, stages)
    axes.set_ylabel(": ".join(filter(None, LABELS.get(metric, (metric, "")))))
    axes.set_ylim(0, 1.02 if all(f["ci95"][1] <= 1 for f in chosen) else None)
    canvas.legend(loc="upper center", frameon=False, ncols=3)

  return _svg(draw, 9.0, 3.8)


def stage_panels(figures: Sequence[Figure], metrics: Sequence[str]) -> str:
  """A small bar chart per metric, of figures of one benchmark."""
  present = [m for m in metrics if any(f["metric"] == m for f in figures)]

  def draw(canvas: "Canvas") -> None:
    for axes, metric in zip(_grid(canvas, len(present), 2, _SLANTED), present):
      points = [f for f in figures if f["metric"] == metric]
      stages = stage_order(f["stage"] for f in points)
      x = [stages.index(f["stage"]) for f in points]
      axes.bar(x, [f["value"] for f in points], 0.62, color="#9db8db")
      axes.errorbar(
        x,
        [f["value"] for f in points],
        yerr=_errors(points),
        fmt="none",
        ecolor="#27466e",
        capsize=2,
      )
      _name_stages(axes, stages, slant=35)
      _entitle(axes, metric)
      axes.grid(False, axis="x")

  return _svg(draw, 9.0, 2.45 * math.ceil(len(present) / 2))


def binned_panels(
  names: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[Estimate | None]]], axis: str
) -> str:
  """A panel for each title: several series of estimates with their intervals over named bins."""

  def draw(canvas: "Canvas") -> None:
    grid = _grid(canvas, len(panels), 2, _STEPS)
    for axes, (title, series) in zip(grid, panels.items(), strict=True):
      for i, (label, estimates) in enumerate(series.items()):
        shift = 0.12 * (i - (len(series) - 1) / 2)
        points = [(x + shift, e) for x, e in enumerate(estimates) if e is not None]
        reach = np.array([[e.value - e.low, e.high - e.value] for _, e in points]).reshape(-1, 2).T
        axes.errorbar(
          [x for x, _ in points],
          [e.value for _, e in points],
          yerr=reach,
          fmt="o-",
          markersize=4,
          capsize=2,
          linewidth=1.0,
          color=_COLOURS[i % len(_COLOURS)],
          label=label,
        )
      _name_stages(axes, names)
      axes.set(title=title, xlabel=axis)
    if len(next(iter(panels.values()))) > 1:
      grid[0].legend(frameon=False)

  return _svg(draw, 9.0, 2.6 * math.ceil(len(panels) / 2))


def curves(records: Sequence[Mapping[str, Any]]) -> str | None:
  """Every logged number against the step, at most twelve; None if nothing was logged twice."""
  present = [name for name in _plottable(records)][:_PANELS]
  if not present:
    return None

  def draw(canvas: "Canvas") -> None:
    for axes, name in zip(_grid(canvas, len(present), 3, _STEPS), present):
      points = [(r.get("step", i), r[name]) for i, r in enumerate(records) if _number(r.get(name))]
      x, y = _thinned(np.array(points, float))
      smooth = _smoothed(y)
      axes.plot(x, y, color="#b9cbe4" if smooth is not None else _COLOURS[0], linewidth=1.0)
      if smooth is not None:
        axes.plot(x, smooth, color=_COLOURS[0], linewidth=1.6)
      _entitle(axes, name)
      axes.set_xlabel("step")

  return _svg(draw, 9.6, 2.3 * math.ceil(len(present) / 3))


def edition(records: Sequence[Mapping[str, Any]]) -> str:
  """A name for what `curves` makes of the records, by which a picture kept is known to be theirs.

  It changes with the records, with this file and with matplotlib.
  """
  drawn_by = Path(__file__).read_bytes() + importlib.metadata.version("matplotlib").encode()
  return hashlib.sha256(json.dumps(records).encode() + drawn_by).hexdigest()[:16]


def expert_map(load_LE: np.ndarray) -> str:
  """Each expert's load over the mean of its layer, layers down and experts across."""
  relative_LE = np.asarray(load_LE) / np.maximum(np.mean(load_LE, axis=1, keepdims=True), 1e-9)

  def draw(canvas: "Canvas") -> None:
    canvas.set_layout_engine("constrained")  # which knows how wide a colour bar is
    axes = canvas.subplots()
    axes.grid(False)
    image = axes.imshow(relative_LE, cmap="Blues", vmin=0.0, aspect="auto")
    axes.set(xlabel="expert", ylabel="expert layer", title="Expert load over its mean")
    axes.set_yticks(range(len(relative_LE)))
    axes.set_xticks(range(relative_LE.shape[1]))
    canvas.colorbar(image, ax=axes)

  return _svg(draw, 7.0, 1.2 + 0.5 * len(relative_LE))


def _plottable(records: Sequence[Mapping[str, Any]]) -> list[str]:
  """Names of numbers logged at least twice, the known ones first."""
  counts: dict[str, int] = {}
  for record in records:
    for name, value in record.items():
      if _number(value) and not name.startswith(_HIDDEN) and not name.endswith(_HIDDEN):
        counts[name] = counts.get(name, 0) + 1
  names = [name for name, count in counts.items() if count > 1]
  known = list(LABELS)
  return sorted(names, key=lambda n: (known.index(n) if n in LABELS else len(known), n))


def _number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _thinned(points_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Neighbouring points averaged until few enough are left."""
  parts = np.array_split(points_N2, min(len(points_N2), _POINTS))
  means = np.array([part.mean(axis=0) for part in parts])
  return means[:, 0], means[:, 1]


def _smoothed(y: np.ndarray) -> np.ndarray | None:
  """A centred running mean over a tenth of the curve; None for short curves."""
  if len(y) < 20:
    return None
  window = len(y) // 10 | 1
  padded = np.pad(y, window // 2, mode="edge")
  return np.convolve(padded, np.ones(window) / window, mode="valid")


def _errors(points: Sequence[Figure]) -> np.ndarray:
  """Distances from the values down and up to their intervals' ends."""
  return np.array([[f["value"] - f["ci95"][0], f["ci95"][1] - f["value"]] for f in points]).T


def _without_hash(benchmark: str) -> str:
  return benchmark.rpartition(" #")[0] or benchmark


def _name_stages(axes: "Axes", stages: Sequence[str], slant: int = 0) -> None:
  axes.set_xticks(range(len(stages)), stages, fontsize=8, rotation=slant)
  if slant:
    for label in axes.get_xticklabels():
      label.set(ha="right", rotation_mode="anchor")
  axes.set_xlim(-0.6, len(stages) - 0.4)


def _entitle(axes: "Axes", name: str) -> None:
  """Title and unit of a panel."""
  title, unit = LABELS.get(name, (name.replace("_", " "), ""))
  axes.set_title(title)
  axes.set_ylabel(unit)


def _grid(canvas: "Canvas", count: int, columns: int, below: float) -> list["Axes"]:
  """`count` axes in rows of `columns`, with room for labels, `below` inches of it under each."""
  width, height = canvas.get_size_inches()
  cell_width, cell_height = width / columns, height / math.ceil(count / columns)
  inner_width, inner_height = cell_width - _LEFT - _RIGHT, cell_height - _TOP - below
  grid = []
  for i in range(count):
    row, column = divmod(i, columns)
    left, top = column * cell_width + _LEFT, height - row * cell_height - _TOP
    box = left / width, (top - inner_height) / height, inner_width / width, inner_height / height
    axes = canvas.add_axes(box)
    axes.locator_params(nbins=6)
    axes.xaxis.set_label_coords(0.5, -0.28 / inner_height)
    axes.yaxis.set_label_coords(-0.55 / inner_width, 0.5)
    axes.yaxis.set_offset_position("right")  # "1e-5" over the axis: the title is on the left
    grid.append(axes)
  return grid


def _svg(draw: Callable[["Canvas"], None], width: float, height: float) -> str:
  """What `draw` paints on a canvas of that many inches."""
  import matplotlib.figure

  with matplotlib.rc_context(_STYLE):
    canvas = matplotlib.figure.Figure(figsize=(width, height))
    draw(canvas)
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
  return out.getvalue()
