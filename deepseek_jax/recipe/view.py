"""A finished run as a notebook shows it: tables, thoughts and pictures, read from its workdir."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.evaluate import charts
from deepseek_jax.evaluate.figures import Figure, table
from deepseek_jax.evaluate.report import Exhibit
from deepseek_jax.evaluate.results import read_results
from deepseek_jax.paths import local_path
from deepseek_jax.recipe.graph import STAGES
from deepseek_jax.recipe.pictures import metrics_by_stage
from deepseek_jax.recipe.record import read_record
from deepseek_jax.recipe.summary import SHOWN


@dataclasses.dataclass(frozen=True)
class Picture:
  """An SVG that a notebook displays."""

  svg: str

  def _repr_svg_(self) -> str:
    return self.svg


@dataclasses.dataclass(frozen=True)
class RunView:
  """What a workdir of `experiments.r1` holds."""

  figures: Sequence[Figure]
  ledger: Sequence[Mapping[str, Any]]
  metrics: Mapping[str, Sequence[Mapping[str, Any]]]  # by stage
  exhibits: Sequence[Exhibit]

  def table(self, metrics: Sequence[str] = SHOWN) -> str:
    """Stages down, metrics across, with 95 % intervals."""
    return table([f for f in self.figures if " over " not in f["metric"]], metrics)

  def compare(self, metric: str) -> Picture:
    """One metric over the stages, with intervals."""
    return Picture(charts.stage_chart(self.figures, metric))

  def curves(self, stage: str, names: Sequence[str] | None = None) -> Picture:
    """A stage's logged numbers against its steps; all of them, or those named."""
    rows = self.metrics[stage]
    if names is not None:
      rows = [{name: row[name] for name in ("step", *names) if name in row} for row in rows]
    return Picture(charts.curves(rows) or "<svg xmlns='http://www.w3.org/2000/svg'/>")

  def thoughts(self, problem: int = 0) -> str:
    """What every stage says to the same problem."""
    prompts = list(dict.fromkeys(e.prompt for e in self.exhibits))
    lines = [prompts[problem]]
    for e in self.exhibits:
      if e.prompt == prompts[problem]:
        lines.append(f"  {e.stage:<13}{'right' if e.correct else 'wrong':<6}{e.text}")
    return "\n".join(lines)


def read_run(directory: str | Path) -> RunView:
  """Reads a workdir of `experiments.r1`; ConfigError if it has no results yet."""
  directory = local_path(directory)
  results = read_results(directory / "results.json")
  exhibits: list[Exhibit] = []
  for stage in STAGES:
    path = directory / "stages" / f"{stage}.json"
    if path.exists():
      exhibits += read_record(path).exhibits
  return RunView(results["figures"], results["ledger"], metrics_by_stage(directory), exhibits)
