"""What every picture is drawn on: sizes, colours, and self-contained SVG text.

Margins are fixed and letters stay letters, which the reader's own font draws: measuring every
label to fit them in, and writing letters as outlines, took two thirds of a picture's time.
Matplotlib is loaded with the first picture, which most programs never draw.
"""

import io
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from matplotlib.axes import Axes
  from matplotlib.figure import Figure as Canvas

POINTS = 160  # of a curve; more are averaged
COLOURS = ("#3b6fb6", "#d1742f", "#4b9a5f", "#8a5fb0", "#b5473f", "#6f6f6f")
_STYLE: dict[Any, Any] = {
  "font.size": 9,
  "font.sans-serif": ["DejaVu Sans"],  # the list stands in every label
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": "#e3e3e3",
  "axes.titlesize": 10,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.titley": 1.0,  # where it is; else it is moved out of the labels' way, which are measured
  "text.parse_math": False,  # a dollar in a benchmark's name is one
  "svg.fonttype": "none",
  "svg.hashsalt": "deepseek_jax",  # equal data gives equal bytes
}
_TURN = re.compile(r' transform="rotate\(-0 [^"]*"')  # by nothing
_PATH, _FINE = re.compile(r' d="[^"]*"'), re.compile(r"(\.\d\d)\d+")  # 0.01 points are enough
_LEFT, _RIGHT, _TOP = 0.75, 0.1, 0.28  # inches around a panel, for its labels
NAMED, SLANTED, STEPS = 0.3, 0.72, 0.5  # below it: stages, stages aslant, numbers and their name


def grid(canvas: "Canvas", count: int, columns: int, below: float) -> list["Axes"]:
  """`count` axes in rows of `columns`, with room for labels, `below` inches of it under each."""
  width, height = canvas.get_size_inches()
  cell_width, cell_height = width / columns, height / math.ceil(count / columns)
  inner_width, inner_height = cell_width - _LEFT - _RIGHT, cell_height - _TOP - below
  panels = []
  for i in range(count):
    row, column = divmod(i, columns)
    left, top = column * cell_width + _LEFT, height - row * cell_height - _TOP
    box = left / width, (top - inner_height) / height, inner_width / width, inner_height / height
    axes = canvas.add_axes(box)
    axes.locator_params(nbins=6)
    axes.xaxis.set_label_coords(0.5, -0.28 / inner_height)
    axes.yaxis.set_label_coords(-0.55 / inner_width, 0.5)
    axes.yaxis.set_offset_position("right")  # "1e-5" over the axis: the title is on the left
    panels.append(axes)
  return panels


def svg(draw: Callable[["Canvas"], None], width: float, height: float) -> str:
  """What `draw` paints on a canvas of that many inches."""
  import matplotlib.figure

  with matplotlib.rc_context(_STYLE):
    canvas = matplotlib.figure.Figure(figsize=(width, height))
    draw(canvas)
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
  return _PATH.sub(lambda path: _FINE.sub(r"\1", path[0]), _TURN.sub("", out.getvalue()))


def is_number(value: Any) -> bool:
  """Whether a logged value can be drawn."""
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def thinned(points_NX: np.ndarray, most: int = POINTS) -> np.ndarray:
  """Columns [X, N] of points, of which neighbours are averaged until few enough are left."""
  parts = np.array_split(points_NX, min(len(points_NX), most))
  return np.array([part.mean(axis=0) for part in parts]).T


def smoothed(y: np.ndarray) -> np.ndarray | None:
  """A centred running mean over a tenth of the curve; None for short curves."""
  if len(y) < 20:
    return None
  window = len(y) // 10 | 1
  padded = np.pad(y, window // 2, mode="edge")
  return np.convolve(padded, np.ones(window) / window, mode="valid")


def evenly(count: int, most: int) -> list[int]:
  """Places of at most so many of `count` things, at about equal distances, with both ends."""
  return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
