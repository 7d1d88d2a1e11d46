"""What a run says of its finished stages: tables, gains, results.json and report.html."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_jax.evaluate.estimators import paired_difference
from deepseek_jax.evaluate.figures import Figure, figure, table
from deepseek_jax.evaluate.report import Report, write_report
from deepseek_jax.evaluate.results import read_metrics, write_results
from deepseek_jax.recipe.costs import costs_text, page_rows
from deepseek_jax.recipe.ledger import priced, total
from deepseek_jax.recipe.pictures import metrics_by_stage, stage_curves
from deepseek_jax.recipe.record import Record, rollouts

SHOWN = (
  "pass@1",
  "pass@4",
  "pass@8",
  "pass@16",
  "length",
  "waits",
  "with_check",
  "language_share",
  "truncated",
)

# What the paper claims of one stage over another, each measured as a paired difference of pass@1.
CLAIMS = (
  ("r1_zero", "base"),
  ("rl1", "cold_start"),
  ("r1", "sft2"),
  ("r1", "r1_zero"),
  ("distilled", "student_base"),
  ("student_rl", "student_base"),
  ("distilled", "student_rl"),
)


@dataclasses.dataclass(frozen=True)
class Summary:
  """The records of a run's finished stages, by stage."""

  records: Mapping[str, Record]
  seed: int
  price: float = 0.0  # of a device-hour

  def figures(self) -> list[Figure]:
    """All stages' figures, then the gains between them."""
    measured = [f for record in self.records.values() for f in record.figures]
    return measured + self.gains()

  def gains(self) -> list[Figure]:
    """pass@1 of one stage less that of another over the same problems, with a paired interval."""
    gains = []
    for after, before in CLAIMS:
      if after not in self.records or before not in self.records:
        continue
      for label, solved_P in self.records[after].solved.items():
        if label not in self.records[before].solved:
          continue  # which was asked in another form
        before_P = self.records[before].solved[label]
        estimate = paired_difference(np.array(solved_P), np.array(before_P))
        gains.append(
          figure(after, label, f"pass@1 over {before}", estimate, len(solved_P), self.seed)
        )
    return gains

  def ledger(self) -> list[dict[str, Any]]:
    """What each stage was given and cost; the run's total is `ledger.sums` of it."""
    return [priced(record.entry, self.price) for record in self.records.values()]

  def text(self) -> str:
    """The tables for a terminal."""
    stages = [f for record in self.records.values() for f in record.figures]
    parts = [
      table(stages, SHOWN),
      self._gains_text(),
      costs_text(self.ledger()),
      self._thoughts_text(),
    ]
    return "\n\n".join(filter(None, parts))

  def seconds(self) -> float:
    """Of all stages, whatever process did them."""
    return total(self.ledger(), "seconds")

  def write_results(self, directory: Path) -> None:
    """Writes results.json."""
    write_results(directory / "results.json", self.figures(), self.seconds(), self.ledger())

  def write_report(self, directory: Path, facts: Mapping[str, Any]) -> None:
    """Writes report.html, with every stage's curves as they were drawn once."""
    curves = {}
    for stage, rows in metrics_by_stage(directory).items():
      if stage in self.records:
        curves[stage] = stage_curves(directory / "stages" / f"{stage}.svg", rows)
    report = Report(
      title="DeepSeek-R1 in miniature",
      facts={**facts, "wall clock": f"{self.seconds():.0f} s"},
      figures=self.figures(),
      curves={stage: svg for stage, svg in curves.items() if svg is not None},
      exhibits=[exhibit for record in self.records.values() for exhibit in record.exhibits],
      ledger=page_rows(self.ledger()),
      samples={stage: read_metrics(rollouts(directory, stage)) for stage in self.records},
    )
    write_report(directory / "report.html", report)

  def _gains_text(self) -> str:
    rows = []
    for gain in self.gains():
      low, high = gain["ci95"]
      sure = "" if low <= 0 <= high else "  *"
      rows.append(
        f"{gain['stage']:<13}{gain['metric']:<26}{gain['benchmark']:<26} "
        f"{gain['value']:+.3f} [{low:+.3f}, {high:+.3f}]{sure}"
      )
    return "\n".join(["gains, paired over problems (*: the interval excludes zero)", *rows])

  def _thoughts_text(self) -> str:
    """The same problem answered by every stage."""
    lines, prompts = [], set()
    for record in self.records.values():
      for exhibit in record.exhibits[:2]:
        mark = "right" if exhibit.correct else "wrong"
        lines.append((exhibit.prompt, f"  {exhibit.stage:<13}{mark:<6} {exhibit.text}"))
        prompts.add(exhibit.prompt)
    shown: Sequence[str] = [
      line
      for prompt in dict.fromkeys(p for p, _ in lines)
      for line in [f"{prompt}", *(text for p, text in lines if p == prompt)]
    ]
    return "\n".join(["thoughts at T = 1, the first sample of the first problems", *shown])
