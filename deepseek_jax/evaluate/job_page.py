"""report.html of a training job: what its workdir holds, in one light page.

Its size does not grow with the run: curves are thinned, few samples are shown, and long texts
lose their middle. Everything else is in the files beside it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_jax.evaluate import charts, drawing, page
from deepseek_jax.evaluate.figures import Figure
from deepseek_jax.evaluate.held_out import exhibits, gains, measured_figures, read_evaluations
from deepseek_jax.evaluate.report import exhibit_table, figure_tables
from deepseek_jax.evaluate.results import read_metrics, write_text
from deepseek_jax.evaluate.reward_charts import held_out_charts, part_charts, reward_chart
from deepseek_jax.evaluate.sample_browser import clipped, sample_sections

# What is drawn of a reinforcement besides its rewards, where it is logged.
_HEALTH = (
  *("length", "truncated", "entropy", "kl", "mismatch", "mismatch_mean", "zero_variance", "kept"),
  *("clipped", "ratio_max", "loss", "grad_norm", "max_violation", "experts_differ", "rounds"),
)
_TOLD = ("unjudged_", "left_out")  # what could not be judged, or asked, where there was any
_HELD_OUT = ("lenient", "length", "truncated", "language_share")  # beside pass@k
_ROWS = 12  # evaluations in a table
_UNTOLD = ("step", "stopped")

Records = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Job:
  """What a page says of a job that its files do not."""

  title: str
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def write_page(folder: Path, job: Job, state: str, figures: Sequence[Figure] = ()) -> None:
  """Writes report.html from what lies in the workdir, whole or not at all.

  `state` says how far the run is, or how it ended; `figures` are of the model it ended with.
  """
  write_text(folder / "report.html", render_page(folder, job, state, figures))


def render_page(folder: Path, job: Job, state: str, figures: Sequence[Figure] = ()) -> str:
  """The page as text."""
  metrics, samples = (read_metrics(folder / f"{name}.jsonl") for name in ("metrics", "samples"))
  evaluations = read_evaluations(folder)
  return page.document(
    job.title,
    [
      page.facts({"state": state, **job.facts}),
      figure_tables(figures),
      _rewards(metrics, evaluations),
      _held_out(evaluations),
      _curves(metrics),
      _last(metrics),
      sample_sections(samples),
      _thoughts(evaluations),
      _configuration(folder),
    ],
  )


def _rewards(metrics: Records, evaluations: Records) -> str:
  """Rewards of a reinforcement beside what is right, and their parts."""
  if not any("reward" in record for record in metrics):
    return ""
  passed = [(s, f) for s, f in measured_figures(evaluations) if f["metric"] == "pass@1"]
  both, parts = reward_chart(metrics, passed), part_charts(metrics)
  note = "Where the reward rises and the right answers do not, the reward is gamed."
  spread = "The reward that is learnt from and its parts: mean and one standard deviation."
  found = [page.picture(both, note)] if both else []
  found += [page.picture(parts, spread)] if parts else []
  return "\n".join(["<h2>Rewards</h2>", *found]) if found else ""


def _held_out(evaluations: Records) -> str:
  """Held-out figures against the steps, and in tables."""
  if not evaluations:
    return ""
  measured = measured_figures(evaluations)
  passes = dict.fromkeys(f["metric"] for _, f in measured if "@" in f["metric"])
  svg = held_out_charts(measured, [*passes, *_HELD_OUT])
  places = drawing.evenly(len(evaluations), _ROWS)
  shown = [f for i in places for f in evaluations[i]["figures"]]
  note = "After so many steps, with 95 % intervals over problems."
  picture = page.picture(svg, note) if svg else ""
  return f"<h2>Held-out problems</h2>{picture}{figure_tables([*shown, *gains(evaluations)])}"


def _curves(metrics: Records) -> str:
  """What is logged besides, against the steps."""
  names = None
  if any("reward" in record for record in metrics):
    logged = dict.fromkeys(name for record in metrics for name in record)
    names = [*_HEALTH, *(name for name in logged if name.startswith(_TOLD))]
  svg = charts.curves(metrics, names)
  note = "Pale: as logged. Dark: running mean over a tenth of the curve."
  return f"<h2>Training</h2>{page.picture(svg, note)}" if svg else ""


def _last(metrics: Records) -> str:
  """Every logged number at the beginning and at the end."""
  if not metrics:
    return ""
  first, last = metrics[0], metrics[-1]
  recent = metrics[-max(1, len(metrics) // 10) :]
  rows = []
  for name in dict.fromkeys([*last, *first]):
    if name in _UNTOLD:
      continue
    known = [record[name] for record in recent if drawing.is_number(record.get(name))]
    mean = float(np.mean(known)) if known else None
    ends = {f"step {record['step']}": record.get(name) for record in (first, last)}
    rows.append({"": name, **ends, "mean of the last tenth": mean})
  stopped = f"<p>Stopped: {page.text(last['stopped'])}</p>" if "stopped" in last else ""
  return f"<h2>Figures</h2>{stopped}{page.table(rows, 'as in metrics.jsonl')}"


def _thoughts(evaluations: Records) -> str:
  """Held-out problems before and after."""
  shown = [
    dataclasses.replace(e, prompt=clipped(e.prompt), text=clipped(e.text))
    for e in exhibits(evaluations)
  ]
  return exhibit_table(shown)


def _configuration(folder: Path) -> str:
  """config.json, folded."""
  path = folder / "config.json"
  if not path.is_file():
    return ""
  told = json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=1, ensure_ascii=False)
  shown = page.text(clipped(told, 20_000))
  return f"<details><summary>config.json</summary><pre>{shown}</pre></details>"
