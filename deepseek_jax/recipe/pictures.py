"""A stage's training curves, drawn once: W/stages/STAGE.svg, beside the stage's record."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.evaluate import charts
from deepseek_jax.evaluate.results import read_metrics, write_text


def metrics_by_stage(directory: Path) -> dict[str, list[Mapping[str, Any]]]:
  """The records of a run's metrics.jsonl, by stage."""
  metrics: dict[str, list[Mapping[str, Any]]] = {}
  for row in read_metrics(directory / "metrics.jsonl"):
    metrics.setdefault(row["stage"], []).append(row)
  return metrics


def stage_curves(path: Path, records: Sequence[Mapping[str, Any]]) -> str | None:
  """The picture of a stage's records, kept in `path`; None if they make none.

  The file's last line names what it was drawn from and by (`charts.edition`): a picture of other
  records, of another version, or a damaged one is drawn again.
  """
  mark = f"<!-- {charts.edition(records)} -->\n"
  with contextlib.suppress(OSError, UnicodeDecodeError):
    kept = path.read_text(encoding="utf-8")
    if kept.endswith(mark):
      return kept.removesuffix(mark)
  drawn = charts.curves(records)
  if drawn is not None:
    write_text(path, drawn + mark)
  return drawn
