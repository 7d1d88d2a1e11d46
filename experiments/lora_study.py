"""What reinforcement gains by training adapters, and by training all weights, from one base.

  python -m experiments.lora_study --config=configs/lora_mini.py --workdir=runs/lora
      --config.init=runs/mini

--config is a GRPO config with `lora`. It is run once for each of --rates (rl.peak), and without
`lora` once for each of --full_rates. Of either kind the rate counts whose rollouts were right most
often in the last quarter of its iterations: by what training saw, so that the held-out problems
choose nothing. The base and both are then measured on --problems of those, --samples each at T = 1,
and the gains, and the difference of both, told with their paired 95 % intervals, which are over
problems and of this one seed.

Each run is a job with a workdir of its own below --workdir, where the same command goes on; the
figures are left in results.json.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

import deepseek_jax as ds
from deepseek_jax.config import ConfigError, require
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.evaluate.estimators import share
from deepseek_jax.evaluate.evaluation import Evaluation, Protocol, evaluate
from deepseek_jax.paths import local_path
from deepseek_jax.rl.grpo_job import GRPOJob, grpo_job, run_grpo
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.train.checkpoint import load_weights
from deepseek_jax.train.loop import TrainingDiverged
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.workdir import write_atomically
from experiments import program

FLAGS = flags.FLAGS


def main() -> None:
  """Trains what is not trained yet, measures and compares."""
  values, workdir = program.training_config()
  require(values.get("lora") is not None, "config.lora is missing; the study is of adapters.")
  directory = local_path(workdir)
  without = {name: value for name, value in values.items() if name != "lora"}
  chosen = {
    "adapters": best(values, rates("rates"), directory, "adapters"),
    "all weights": best(without, rates("full_rates"), directory, "full"),
  }
  job = grpo_job(values)
  base = measure(job, job.init)
  found = {name: measure(job, folder) for name, (_, folder) in chosen.items()}
  rows = {"base": row(base)}
  for name, (rate, folder) in chosen.items():
    rows[name] = row(found[name]) | {
      "rate": rate,
      "trained": sum(x.size for x in _arrays(load_weights(folder / "checkpoints").params)),
      **gained(found[name], base),
    }
  rows["adapters"]["over_all_weights"] = gained(found["adapters"], found["all weights"])
  told(rows)
  write_atomically(directory / "results.json", json.dumps(rows, indent=1) + "\n")


def rates(flag: str) -> list[float]:
  """The learning rates of a flag."""
  try:
    found = [float(text) for text in FLAGS[flag].value or ()]
  except ValueError as error:
    raise ConfigError(f"--{flag} is {FLAGS[flag].value}; give numbers.") from error
  require(bool(found), f"--{flag} is empty; give at least one rate.")
  return found


def best(
  values: Mapping[str, Any], peaks: Sequence[float], directory: Path, name: str
) -> tuple[float, Path]:
  """The rate whose rollouts ended best, and where its run lies; ConfigError if all diverged."""
  found: dict[float, float] = {}
  for peak in peaks:
    job = grpo_job(values)
    job = dataclasses.replace(job, rl=dataclasses.replace(job.rl, peak=peak))
    folder = directory / f"{name}_{peak:g}"
    try:
      run_grpo(job, folder, stage=folder.name)
    except TrainingDiverged as error:
      print(f"{folder.name}: {error}")
      continue
    found[peak] = last_quarter([r["correct"] for r in read_metrics(folder / "metrics.jsonl")])
    print(f"{folder.name}: {found[peak]:.3f} of the last rollouts were right", flush=True)
  require(bool(found), f"all of {name} diverged; give lower rates.")
  peak = max(found, key=lambda rate: found[rate])
  return peak, directory / f"{name}_{peak:g}"


def last_quarter(values: Sequence[float]) -> float:
  """The mean of the last quarter, or of the last value of fewer than four."""
  return float(np.mean(values[-max(1, len(values) // 4) :]))


def measure(job: GRPOJob, model: str | Path) -> Evaluation:
  """A model on the held-out problems of the job's task."""
  opened, task = ds.load(model, compute=job.compute), load_task(job.task)
  protocol = Protocol(
    benchmark=task.name,
    problems=FLAGS.problems,
    samples=FLAGS.samples,
    max_new=job.rl.rollout.max_new,
    template=job.rl.rollout.template,
  )
  engine = SlotEngine(opened.transformer, job.engine_batch)
  assert opened.tokenizer is not None  # for the job has trained with it
  return evaluate(engine, opened.weights, opened.tokenizer, task, protocol)


def row(measured: Evaluation) -> dict[str, Any]:
  """The share that was right."""
  estimate = share(measured.correct_PJ.mean(axis=1))
  return {"pass@1": estimate.value, "ci95": [estimate.low, estimate.high]}


def gained(after: Evaluation, before: Evaluation) -> dict[str, Any]:
  """The paired difference of pass@1."""
  gain = after.gain_over(before)
  return {"gain": gain.value, "gain_ci95": [gain.low, gain.high]}


def told(rows: Mapping[str, Mapping[str, Any]]) -> None:
  """Prints the table."""
  print(f"{'':<12}{'rate':>8}{'trained':>10}  {'pass@1, T = 1':<22}gain over the base")
  for name, row in rows.items():
    line = f"{name:<12}{row.get('rate', ''):>8}{row.get('trained', ''):>10}  "
    line += f"{_interval(row['pass@1'], row['ci95']):<22}"
    if "gain" in row:
      line += _interval(row["gain"], row["gain_ci95"], "+")
    print(line)
  apart = rows["adapters"]["over_all_weights"]
  print(f"adapters less all weights: {_interval(apart['gain'], apart['gain_ci95'], '+')}")


def _interval(value: float, ci95: Sequence[float], sign: str = "") -> str:
  return f"{value:{sign}.3f} [{ci95[0]:{sign}.3f}, {ci95[1]:{sign}.3f}]"


def _arrays(params: Any) -> list[np.ndarray]:
  """The arrays of nested parameters."""
  return [x for p in params.values() for x in (_arrays(p) if isinstance(p, dict) else [p])]


if __name__ == "__main__":
  program.training_flags()
  flags.DEFINE_list("rates", ["1e-3", "3e-3"], "Peaks of adapters' learning rate.")
  flags.DEFINE_list("full_rates", ["2e-4", "4e-4"], "Peaks of all weights' learning rate.")
  flags.DEFINE_integer("problems", 192, "Held-out problems.")
  flags.DEFINE_integer("samples", 4, "Of each problem.")
  program.run(main)
