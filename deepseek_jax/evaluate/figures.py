"""Figures: single measured numbers with their uncertainty, as results.json stores them."""

import re
from collections.abc import Iterable, Sequence
from typing import TypedDict

from deepseek_jax.evaluate.estimators import Estimate

# The stages of a full run in their order (2501.12948, figure 2, and the students).
STAGES = (
  "base",
  "r1_zero",
  "cold_start",
  "rl1",
  "sft2",
  "r1",
  "student_base",
  "distilled",
  "student_rl",
)


class Figure(TypedDict):
  """One number. `samples` counts the completions behind it."""

  stage: str
  benchmark: str  # NAME DECODING #HASH, see evaluation.Protocol.label
  metric: str
  value: float
  ci95: list[float]
  samples: int
  seed: int


def figure(
  stage: str, benchmark: str, metric: str, estimate: Estimate, samples: int, seed: int
) -> Figure:
  """The figure of an estimate."""
  return Figure(
    stage=stage,
    benchmark=benchmark,
    metric=metric,
    value=estimate.value,
    ci95=[estimate.low, estimate.high],
    samples=samples,
    seed=seed,
  )


def stage_order(stages: Iterable[str]) -> list[str]:
  """Distinct stages: those of a full run in their order, then others as they came."""
  distinct = list(dict.fromkeys(stages))
  known = [stage for stage in STAGES if stage in distinct]
  return known + [stage for stage in distinct if stage not in STAGES]


def table(figures: Sequence[Figure], metrics: Sequence[str] | None = None) -> str:
  """Plain text for a terminal: per benchmark and seed, stages down and metrics across.

  Each cell is `value [low, high]`; a stage without a metric has a dash. `metrics` picks and
  orders the columns.
  """
  blocks = []
  for (benchmark, seed), group in by_benchmark(figures).items():
    columns, rows = grid(group, metrics)
    if not columns:
      continue
    cells = [["stage", *columns]] + [[stage, *map(_cell, row)] for stage, row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    blocks.append("\n".join([f"{benchmark}, seed {seed}", *lines]))
  return "\n\n".join(blocks)


def by_benchmark(figures: Iterable[Figure]) -> dict[tuple[str, int], list[Figure]]:
  """Figures grouped by benchmark and seed, in their order."""
  groups: dict[tuple[str, int], list[Figure]] = {}
  for f in figures:
    groups.setdefault((f["benchmark"], f["seed"]), []).append(f)
  return groups


def grid(
  figures: Sequence[Figure], metrics: Sequence[str] | None = None
) -> tuple[list[str], list[tuple[str, list[Figure | None]]]]:
  """Metrics across, and stages down with their figures; a later figure replaces an earlier."""
  present = dict.fromkeys(f["metric"] for f in figures)
  columns = [m for m in metrics if m in present] if metrics is not None else list(present)
  found = {(f["stage"], f["metric"]): f for f in figures}
  stages = stage_order(f["stage"] for f in figures)
  return columns, [(stage, [found.get((stage, m)) for m in columns]) for stage in stages]


def format_figure(value: float) -> str:
  """Three decimals for small numbers, one for large ones."""
  return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _cell(found: Figure | None) -> str:
  if found is None:
    return "-"
  low, high = found["ci95"]
  text = f"{format_figure(found['value'])} [{format_figure(low)}, {format_figure(high)}]"
  return re.sub(r"\b0\.", ".", text)
