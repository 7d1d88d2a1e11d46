"""The report's pictures of stages and of logged numbers."""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek_jax.evaluate import drawing
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
  "mismatch": ("Sampler and trainer apart", "nats, largest"),
  "mismatch_mean": ("Sampler and trainer apart", "nats, mean"),
  "mismatch_kl": ("Sampler and trainer apart", "nats per token, k3"),
  "reward_learned": ("The reward model's figure", "per completion"),
  "kept": ("Samples learnt from", "share"),
  "ratio_max": ("Largest ratio", ""),
  "lenient": ("Right in whatever form", "share of problems"),
}
_HIDDEN = ("step", "tokens", "time", "seconds", "wall", "eta")  # not worth a curve
_PANELS = 12


def stage_chart(figures: Sequence[Figure], metric: str) -> str:
  """One metric over the stages with 95 % intervals, a series for each benchmark and seed."""
  chosen = [f for f in figures if f["metric"] == metric]
  stages = stage_order(f["stage"] for f in chosen)
  several_seeds = len({f["seed"] for f in chosen}) > 1
  series: dict[str, list[Figure]] = {}
  for f in chosen:
    seed = f", seed {f['seed']}" if several_seeds else ""
    series.setdefault(without_hash(f["benchmark"]) + seed, []).append(f)

  def draw(canvas: "Canvas") -> None:
    (axes,) = drawing.grid(canvas, 1, 1, drawing.NAMED)
    for i, (name, points) in enumerate(series.items()):
      shift = 0.12 * (i - (len(series) - 1) / 2)
      x = [stages.index(f["stage"]) + shift for f in points]
      axes.errorbar(
        x,
        [f["value"] for f in points],
        yerr=errors(points),
        fmt="o",
        markersize=5,
        capsize=3,
        color=drawing.COLOURS[i % len(drawing.COLOURS)],
        label=name,
      )
    _name_stages(axes, stages)
    axes.set_ylabel(": ".join(filter(None, LABELS.get(metric, (metric, "")))))
    axes.set_ylim(0, 1.02 if all(f["ci95"][1] <= 1 for f in chosen) else None)
    canvas.legend(loc="upper center", frameon=False, ncols=3)

  return drawing.svg(draw, 9.0, 3.8)


def stage_panels(figures: Sequence[Figure], metrics: Sequence[str]) -> str:
  """A small bar chart per metric, of figures of one benchmark."""
  present = [m for m in metrics if any(f["metric"] == m for f in figures)]

  def draw(canvas: "Canvas") -> None:
    for axes, metric in zip(drawing.grid(canvas, len(present), 2, drawing.SLANTED), present):
      points = [f for f in figures if f["metric"] == metric]
      stages = stage_order(f["stage"] for f in points)
      x = [stages.index(f["stage"]) for f in points]
      axes.bar(x, [f["value"] for f in points], 0.62, color="#9db8db")
      axes.errorbar(
        x,
        [f["value"] for f in points],
        yerr=errors(points),
        fmt="none",
        ecolor="#27466e",
        capsize=2,
      )
      _name_stages(axes, stages, slant=35)
      entitle(axes, metric)
      axes.grid(False, axis="x")

  return drawing.svg(draw, 9.0, 2.45 * math.ceil(len(present) / 2))


def binned_panels(
  names: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[Estimate | None]]], axis: str
) -> str:
  """A panel for each title: several series of estimates with their intervals over named bins."""

  def draw(canvas: "Canvas") -> None:
    panes = drawing.grid(canvas, len(panels), 2, drawing.STEPS)
    for axes, (title, series) in zip(panes, panels.items(), strict=True):
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
          color=drawing.COLOURS[i % len(drawing.COLOURS)],
          label=label,
        )
      _name_stages(axes, names)
      axes.set(title=title, xlabel=axis)
    if len(next(iter(panels.values()))) > 1:
      panes[0].legend(frameon=False)

  return drawing.svg(draw, 9.0, 2.6 * math.ceil(len(panels) / 2))


def curves(records: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> str | None:
  """Logged numbers against the step: those named, or the first twelve that are worth it.

  None if nothing was logged twice.
  """
  found = _plottable(records)
  present = found[:_PANELS] if names is None else [name for name in names if name in found]
  if not present:
    return None

  def draw(canvas: "Canvas") -> None:
    for axes, name in zip(drawing.grid(canvas, len(present), 3, drawing.STEPS), present):
      points = [
        (r.get("step", i), r[name]) for i, r in enumerate(records) if drawing.is_number(r.get(name))
      ]
      x, y = drawing.thinned(np.array(points, float))
      smooth = drawing.smoothed(y)
      axes.plot(x, y, color="#b9cbe4" if smooth is not None else drawing.COLOURS[0], linewidth=1.0)
      if smooth is not None:
        axes.plot(x, smooth, color=drawing.COLOURS[0], linewidth=1.6)
      entitle(axes, name)
      axes.set_xlabel("step")

  return drawing.svg(draw, 9.6, 2.3 * math.ceil(len(present) / 3))


def edition(records: Sequence[Mapping[str, Any]]) -> str:
  """A name for what `curves` makes of the records, by which a picture kept is known to be theirs.

  It changes with the records, with what draws here and with matplotlib.
  """
  sources = [Path(str(file)).read_bytes() for file in (__file__, drawing.__file__)]
  drawn_by = b"".join(sources) + importlib.metadata.version("matplotlib").encode()
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

  return drawing.svg(draw, 7.0, 1.2 + 0.5 * len(relative_LE))


def _plottable(records: Sequence[Mapping[str, Any]]) -> list[str]:
  """Names of numbers logged at least twice, the known ones first."""
  counts: dict[str, int] = {}
  for record in records:
    for name, value in record.items():
      if drawing.is_number(value) and not name.startswith(_HIDDEN) and not name.endswith(_HIDDEN):
        counts[name] = counts.get(name, 0) + 1
  names = [name for name, count in counts.items() if count > 1]
  known = list(LABELS)
  return sorted(names, key=lambda n: (known.index(n) if n in LABELS else len(known), n))


def errors(points: Sequence[Figure]) -> np.ndarray:
  """Distances from the values down and up to their intervals' ends."""
  return np.array([[f["value"] - f["ci95"][0], f["ci95"][1] - f["value"]] for f in points]).T


def without_hash(benchmark: str) -> str:
  """A protocol's label as a legend has it."""
  return benchmark.rpartition(" #")[0] or benchmark


def _name_stages(axes: "Axes", stages: Sequence[str], slant: int = 0) -> None:
  axes.set_xticks(range(len(stages)), stages, fontsize=8, rotation=slant)
  if slant:
    for label in axes.get_xticklabels():
      label.set(ha="right", rotation_mode="anchor")
  axes.set_xlim(-0.6, len(stages) - 0.4)


def entitle(axes: "Axes", name: str) -> None:
  """Title and unit of a panel."""
  title, unit = LABELS.get(name, (name.replace("_", " "), ""))
  axes.set_title(title)
  axes.set_ylabel(unit)
