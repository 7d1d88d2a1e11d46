"""The studies' plots, as SVG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.studies.curves import relative_curve, smooth

_COLOURS = ("#3b6fb6", "#6f6f6f", "#a8a8a8", "#d1742f", "#e8b48c", "#8a5fb0")
_STYLE: dict[Any, Any] = {
  "font.size": 9,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": "#e3e3e3",
  "axes.titlelocation": "left",
  "svg.hashsalt": "deepseek_jax",  # equal data gives equal bytes
}


def draw_losses(losses: Mapping[str, Sequence[float]], reference: str, bound: float, file: Path):
  """Smoothed losses, and their relative differences from the run `reference`, in per cent."""
  with matplotlib.rc_context(_STYLE):
    canvas = Figure(figsize=(10, 4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    widest = 4 * 100 * bound  # per cent; the first quarter, which is steep, may leave the picture
    for (name, curve), colour in zip(losses.items(), _COLOURS[: len(losses)], strict=True):
      steps = range(1, len(curve) + 1)
      left.plot(steps, smooth(curve), color=colour, linewidth=1, label=name.replace("_", " "))
      if name != reference:
        percent = 100 * relative_curve(curve, losses[reference])
        widest = max(widest, 1.1 * np.abs(percent[len(percent) // 4 :]).max())
        right.plot(steps, percent, color=colour, linewidth=1, label=name.replace("_", " "))
    for edge in (-bound, bound):
      right.axhline(100 * edge, color="black", linewidth=0.8, linestyle=":")
    right.set_ylim(-widest, widest)
    left.set(title="Loss", xlabel="step", ylabel="nats per token")
    title = f"Loss, relative to {reference.replace('_', ' ')}"
    right.set(title=title, xlabel="step", ylabel="per cent")
    right.legend(frameon=False)
    left.legend(frameon=False)
    canvas.savefig(file, format="svg", metadata={"Date": None})


def draw_promotion(rows: Sequence[Mapping[str, float]], file: Path) -> None:
  """Errors of a product of depth K on an accumulator of 14 bits, with and without promotion."""
  with matplotlib.rc_context(_STYLE):
    canvas = Figure(figsize=(5, 4), layout="constrained")
    axes = canvas.subplots()
    depths = [row["K"] for row in rows]
    series = (("promoted", "every 128"), ("not_promoted", "never"))
    for (name, label), colour in zip(series, _COLOURS[::3], strict=False):
      percent = [100 * row[name] for row in rows]
      axes.plot(depths, percent, "o-", color=colour, label=f"promoted to float32 {label}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(depths, [f"{K:.0f}" for K in depths])
    axes.set(title="E4M3 product, 14-bit accumulator", xlabel="K")
    axes.set_ylabel("largest error, per cent of the largest result")
    axes.legend(frameon=False)
    canvas.savefig(file, format="svg", metadata={"Date": None})
