"""The R1 job: from its configuration to a workdir with results, report and exported models."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from deepseek_jax.config import from_dict
from deepseek_jax.hub.safetensors import save_pretrained
from deepseek_jax.recipe.clock import Clock
from deepseek_jax.recipe.config import R1Config
from deepseek_jax.recipe.graph import GRAPH, Node
from deepseek_jax.recipe.record import Record
from deepseek_jax.recipe.run import Run
from deepseek_jax.recipe.summary import Summary
from deepseek_jax.train.start import resolve_model
from deepseek_jax.train.workdir import FREE_FIELDS, Workdir

FREE = (*FREE_FIELDS, "save_every", "log_every")
_EXPORTED = ("r1", "distilled")


def r1_config(values: Mapping[str, Any]) -> R1Config:
  """The job of a config's values; fields that are not among them have their defaults."""
  given = dict(values)
  models = {name: resolve_model(given.pop(name, {})) for name in ("teacher", "student")}
  return from_dict(R1Config, {**given, **models})


def run_r1(config: R1Config, directory: str | Path) -> Summary:
  """Runs, or goes on with, the whole recipe in the workdir `directory`, and prints its tables.

  Raises:
    ConfigError: the input is bad, or the directory is another run's.
    TrainingDiverged, Terminated: see `train.loop.train`.
  """
  began = time.monotonic()
  with Workdir(directory, config, FREE) as workdir:
    summary = _run(config, workdir)
  print(summary.text())
  print(
    f"\n{time.monotonic() - began:.0f} s in this process. "
    f"Report: {workdir.path / 'report.html'}. Models: {workdir.path / 'export'}",
    file=sys.stderr,
  )
  return summary


def _run(config: R1Config, workdir: Workdir) -> Summary:
  """Runs what is unfinished, and exports."""
  run = Run(config, workdir.path)
  run.tokenizer.save(workdir.tokenizer)
  records: dict[str, Record] = {}
  finished = [n.stage for n in GRAPH if run.record_path(n.stage).exists()]
  for node, record in run.stages():
    records[node.stage] = record
    summary = Summary(records, config.seed)
    if node.stage not in finished or node is GRAPH[-1]:
      _publish(summary, run, node, facts(config))
  for stage in _EXPORTED:
    node = next(n for n in GRAPH if n.stage == stage)
    out = workdir.path / "export" / stage
    if not out.exists():
      save_pretrained(out, run.model_config(node), run.weights(stage), run.tokenizer)
  return summary


def facts(config: R1Config) -> dict[str, Any]:
  """What the report says about the run below its title."""
  return {
    "seed": config.seed,
    "task": config.task,
    "devices": f"{config.mesh.devices} {jax.devices()[0].platform}",
    "jax": jax.__version__,
  }


def _publish(summary: Summary, run: Run, node: Node, facts: Mapping[str, Any]) -> None:
  """Draws the page of the stages so far, and enters what that took with the last of them."""
  clock, record = Clock(), summary.records[node.stage]
  with clock("drawing"):
    summary.write_report(run.directory, facts)
  if not record.entry["drawing_seconds"]:
    record.entry["drawing_seconds"] = clock.seconds["drawing"]
    record.entry["seconds"] += clock.total
    record.write(run.record_path(node.stage))
  summary.write_results(run.directory)
