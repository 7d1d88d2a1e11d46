"""What a training job leaves for its user while it goes, and however it ends.

report.html and results.json are written anew from time to time, and at the end: also at one by a
limit, a signal or an error. Drawing takes at most a fiftieth of the run. Held-out problems are
asked where `evaluation` says so. Of several processes the first draws, and all ask.
"""

import sys
import time
from pathlib import Path

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate.held_out import (
  EvaluationLog,
  gains,
  measured_figures,
  read_evaluations,
)
from deepseek_jax.evaluate.job_page import Job, write_page
from deepseek_jax.evaluate.results import read_metrics, read_results, write_results
from deepseek_jax.hosts import group
from deepseek_jax.types import Weights

SECONDS = 60.0  # between two drawings at least
_SHARE = 50  # as many times as long as a drawing takes


class JobMonitor:
  """A `train.monitor.Monitor`."""

  def __init__(self, folder: Path, job: Job, step: int, evaluations: EvaluationLog | None = None):
    """Of a run that goes on behind `step`."""
    self.folder, self.job, self.evaluations = folder, job, evaluations
    self._step, self._ended = step, False
    self._began = self._drawn = time.monotonic()
    self._before = _seconds_before(folder)
    self._pause = SECONDS

  def due(self, step: int) -> bool:
    """Whether held-out problems are to be asked, or the page is old."""
    self._step = step
    return self._asks(step) or self._old()

  def look(self, step: int, weights: Weights) -> None:
    """Measures and draws what is due."""
    if self.evaluations is not None and self._asks(step):
      self.evaluations.measure(step, weights)
    if self._old():
      self._publish(f"at step {step}")

  def end(self, step: int, weights: Weights) -> None:
    """Measures the model that the run ends with."""
    self._step, self._ended = step, True
    if self.evaluations is not None:
      self.evaluations.measure(step, weights)

  def close(self, error: BaseException | None) -> None:
    """Draws the page for the last time."""
    why = "" if error is None else f": {str(error) or type(error).__name__}"
    how = "ended after" if self._ended else "stopped after"
    self._publish(f"{how} step {self._step}{why}")

  def _asks(self, step: int) -> bool:
    return self.evaluations is not None and self.evaluations.due(step)

  def _old(self) -> bool:
    return group.first() and time.monotonic() - self._drawn >= self._pause

  def _publish(self, state: str) -> None:
    """Writes page and results; what prevents it is told, and ends no training."""
    if not group.first():
      return
    began = time.monotonic()
    try:
      records = read_evaluations(self.folder)
      figures = [figure for _, figure in measured_figures(records)] + gains(records)
      seconds = self._before + began - self._began
      write_results(self.folder / "results.json", figures, seconds, _ledger(self.folder, self.job))
      write_page(self.folder, self.job, state)
    except Exception as error:  # of days of training that go on
      told = " ".join(str(error).split())
      print(
        f"report.html in {self.folder} could not be written: {type(error).__name__}: {told}",
        file=sys.stderr,
        flush=True,
      )
    self._drawn = time.monotonic()
    self._pause = max(SECONDS, _SHARE * (self._drawn - began))


def _ledger(folder: Path, job: Job) -> list[dict[str, object]]:
  """How far the run came."""
  metrics = read_metrics(folder / "metrics.jsonl")
  if not metrics:
    return []
  last = metrics[-1]
  return [{"stage": job.title, "steps": last["step"], "tokens_seen": last.get("tokens_seen")}]


def _seconds_before(folder: Path) -> float:
  """What the processes before this one took, as far as they wrote it down."""
  try:
    return float(read_results(folder / "results.json").get("wall_seconds") or 0.0)
  except ConfigError:
    return 0.0
