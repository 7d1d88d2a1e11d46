"""report.html: a run in one self-contained page of tables, pictures and sample thoughts."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_jax.evaluate import charts, page
from deepseek_jax.evaluate.evaluation import Evaluation
from deepseek_jax.evaluate.figures import Figure, by_benchmark, format_figure, grid, stage_order
from deepseek_jax.evaluate.results import write_text
from deepseek_jax.evaluate.sample_browser import Samples, sample_sections

_PANELS = ("length", "reflection_words", "waits", "with_check", "language_share", "truncated")


@dataclasses.dataclass(frozen=True)
class Exhibit:
  """One completion to show."""

  stage: str
  prompt: str
  text: str
  correct: float


@dataclasses.dataclass(frozen=True)
class Report:
  """What a page shows; empty parts are left out of it."""

  title: str
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # shown below the title
  figures: Sequence[Figure] = ()
  curves: Mapping[str, str] = dataclasses.field(default_factory=dict)  # SVG by stage
  exhibits: Sequence[Exhibit] = ()
  ledger: Sequence[Mapping[str, Any]] = ()  # rows of one table, e.g. cost by stage
  samples: Mapping[str, Samples] = dataclasses.field(default_factory=dict)  # said in RL, by stage


def choose_exhibits(evaluations: Mapping[str, Evaluation], count: int = 4) -> list[Exhibit]:
  """The same problems in every stage, by stage name: the first of each task and language.

  Nothing is chosen by how it came out: always sample 0, always the first problems.
  """
  exhibits: list[Exhibit] = []
  problems = next(iter(evaluations.values())).problems if evaluations else ()
  kinds: dict[tuple[str, str], str] = {}
  for problem in problems:
    kinds.setdefault((problem.task, problem.language), problem.key)
  for key in list(kinds.values())[:count]:
    for stage, evaluation in evaluations.items():
      for i, problem in enumerate(evaluation.problems):
        if problem.key == key:
          text, right = evaluation.texts[i][0], float(evaluation.correct_PJ[i, 0])
          exhibits.append(Exhibit(stage, problem.prompt, text, right))
  return exhibits


def write_report(path: str | os.PathLike[str], report: Report) -> None:
  """Renders and writes the page; see `results.write_text`."""
  write_text(path, render(report))


def render(report: Report) -> str:
  """The page as text. It loads nothing from anywhere."""
  return page.document(
    report.title,
    [
      page.facts(report.facts),
      _figures(report.figures),
      _curves(report.curves),
      exhibit_table(report.exhibits),
      *(sample_sections(s, f"Samples of {name}") for name, s in report.samples.items()),
      _ledger(report.ledger),
    ],
  )


def _figures(figures: Sequence[Figure]) -> str:
  """Charts over the stages, then tables."""
  if not figures:
    return ""
  parts = ["<h2>Stages</h2>"]
  if any(f["metric"] == "pass@1" for f in figures):
    note = "pass@1 on held-out problems by stage, with 95 % intervals over problems."
    parts.append(page.picture(charts.stage_chart(figures, "pass@1"), note))
  groups = by_benchmark(figures)
  sampled = [group for (name, _), group in groups.items() if " greedy " not in name]
  if sampled and any(f["metric"] in _PANELS for f in sampled[-1]):
    note = f"What the completions are like: {sampled[-1][0]['benchmark']}."
    parts.append(page.picture(charts.stage_panels(sampled[-1], _PANELS), note))
  return "\n".join([*parts, figure_tables(figures)])


def figure_tables(figures: Sequence[Figure]) -> str:
  """Every figure, in tables of a benchmark and seed."""
  parts = []
  for (name, seed), group in by_benchmark(figures).items():
    levels = [f for f in group if " over " not in f["metric"]]
    gains = [f for f in group if " over " in f["metric"]]
    parts += [_figure_table(name, seed, levels)] if levels else []
    parts.append(_gain_table(name, seed, gains))
  return "\n".join(parts)


def _figure_table(benchmark: str, seed: int, figures: Sequence[Figure]) -> str:
  """Stages down, metrics across."""
  columns, rows = grid(figures)
  names = "".join(f"<th>{page.text(c)}</th>" for c in columns)
  body = "".join(
    f"<tr><th>{page.text(stage)}</th>{''.join(map(_figure_cell, row))}</tr>" for stage, row in rows
  )
  counts = sorted({f["samples"] for f in figures})
  samples = " or ".join(map(str, counts))
  caption = f"{page.text(benchmark)}, seed {seed}, {samples} completions"
  return f"<table><caption>{caption}</caption><tr><th>stage</th>{names}</tr>{body}</table>"


def _gain_table(benchmark: str, seed: int, gains: Sequence[Figure]) -> str:
  """One line for each gain of one stage over another (metric `METRIC over STAGE`)."""
  if not gains:
    return ""
  rows = "".join(
    f"<tr><th>{page.text(f['stage'])}</th><td>{page.text(f['metric'])}</td>{_figure_cell(f)}"
    f"<td>{'' if f['ci95'][0] <= 0 <= f['ci95'][1] else 'excludes zero'}</td></tr>"
    for f in gains
  )
  caption = f"{page.text(benchmark)}, seed {seed}: gains, paired over problems"
  return f"<table><caption>{caption}</caption>{rows}</table>"


def _figure_cell(found: Figure | None) -> str:
  if found is None:
    return "<td>–</td>"
  low, high = map(format_figure, found["ci95"])
  return f"<td>{format_figure(found['value'])}<small>[{low}, {high}]</small></td>"


def _curves(curves: Mapping[str, str]) -> str:
  """A grid of curves per stage (`charts.curves`)."""
  parts = [f"<h3>{page.text(s)}</h3>" + page.picture(curves[s], "") for s in stage_order(curves)]
  note = "<p>Pale: as logged. Dark: running mean over a tenth of the curve.</p>"
  return "\n".join(["<h2>Training curves</h2>", note, *parts]) if parts else ""


def exhibit_table(exhibits: Sequence[Exhibit]) -> str:
  """Completions under their prompts."""
  prompts = dict.fromkeys(e.prompt for e in exhibits)
  parts = []
  for prompt in prompts:
    rows = "".join(
      f"<tr><th>{page.text(e.stage)}</th><td class=mark>{page.mark(e.correct)}</td>"
      f"<td class=thought>{page.text(e.text) or '<i>nothing</i>'}</td></tr>"
      for e in exhibits
      if e.prompt == prompt
    )
    parts.append(f"<h3>{page.text(prompt)}</h3><table class=thoughts>{rows}</table>")
  note = "<p>The first problem of each kind and its first sample, not chosen by outcome.</p>"
  return "\n".join(["<h2>Thoughts</h2>", note, *parts]) if parts else ""


def _ledger(rows: Sequence[Mapping[str, Any]]) -> str:
  """What each stage cost."""
  return f"<h2>Ledger</h2>{page.table(rows)}" if rows else ""
