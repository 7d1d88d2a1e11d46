"""The R1 job: from its configuration to a workdir with results, report and exported models."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from deepseek_jax.hub.safetensors import save_pretrained
from deepseek_jax.paths import local_path
from deepseek_jax.recipe.clock import Clock
from deepseek_jax.recipe.config import GivenStage, R1Config, ReinforceStage, TuneStage
from deepseek_jax.recipe.graph import STAGES, Node
from deepseek_jax.recipe.lessons import written_fingerprint
from deepseek_jax.recipe.record import Record
from deepseek_jax.recipe.resolve import r1_config
from deepseek_jax.recipe.run import Run
from deepseek_jax.recipe.summary import Summary
from deepseek_jax.rl.learned_reward import open_judge
from deepseek_jax.train.workdir import FREE_FIELDS, Workdir

FREE = (*FREE_FIELDS, "save_every", "log_every", "price_per_device_hour")
_EXPORTED = ("r1", "distilled")

__all__ = ["facts", "r1_config", "run_r1"]


def run_r1(config: R1Config, directory: str | Path) -> Summary:
  """Runs, or goes on with, the whole recipe in the workdir `directory`, and prints its tables.

  Raises:
    ConfigError: the input is bad, or the directory is another run's.
    TrainingDiverged, Terminated: see `train.loop.train`.
  """
  began = time.monotonic()
  run = Run(config, local_path(directory).absolute())
  with Workdir(directory, config, FREE) as workdir:
    summary = _run(run, workdir)
  print(summary.text())
  print(
    f"\n{time.monotonic() - began:.0f} s in this process. "
    f"Report: {workdir.path / 'report.html'}. Models: {workdir.path / 'export'}",
    file=sys.stderr,
  )
  return summary


def _run(run: Run, workdir: Workdir) -> Summary:
  """Runs what is unfinished, and exports."""
  config = run.config
  corpus = _corpus(config)
  if corpus:
    workdir.keep("corpus", corpus)
  judges = _judges(run)
  if judges:
    workdir.keep("reward model", judges)
  run.origins[run.graph[0].stage].tokenizer.save(workdir.tokenizer)
  records: dict[str, Record] = {}
  finished = [n.stage for n in run.graph if run.record_path(n.stage).exists()]
  for node, record in run.stages():
    records[node.stage] = record
    summary = Summary(records, config.seed, config.price_per_device_hour)
    if node.stage not in finished or node is run.graph[-1]:
      _publish(summary, run, node, facts(config))
  for stage in _exported(run):
    out, origin = workdir.path / "export" / stage, run.origins[stage]
    if not out.exists():
      save_pretrained(out, origin.model, run.weights(stage), origin.tokenizer)
  return summary


def _judges(run: Run) -> dict[str, str]:
  """The reward models that the stages are rewarded by, each with a digest of its weights."""
  stages = [getattr(run.config, node.stage) for node in run.graph]
  rollouts = [stage.rl.rollout for stage in stages if isinstance(stage, ReinforceStage)]
  learned = {rollout.reward.learned.model: rollout for rollout in rollouts}
  opened = {name: open_judge(rollout) for name, rollout in learned.items()}
  return {name: judge.model.digest for name, judge in opened.items() if judge is not None}


def _exported(run: Run) -> list[str]:
  """The stages that are exported: R1 and its student, or else the last that was trained."""
  trained = [n.stage for n in run.graph if not isinstance(getattr(run.config, n.stage), GivenStage)]
  return [stage for stage in _EXPORTED if stage in trained] or trained[-1:]


def _corpus(config: R1Config) -> dict[str, Any]:
  """The files that stages learn from, by which a change is noticed."""
  found = {}
  for stage in STAGES:
    settings = getattr(config, stage)
    for name, written in settings.written.items() if isinstance(settings, TuneStage) else ():
      for file, known in written_fingerprint(written).items():
        found[f"{stage}.{name} {file}"] = known
  return found


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
