"""Trains one model in float32, bfloat16 and FP8, and says how far the losses lie apart.

  python -m experiments.fp8_study --config=configs/fp8_mini.py --workdir=runs/fp8

Every run has the same first weights, batches and schedule and differs in `compute.precision` alone,
but for `bfloat16_moved`, in which one of the first weights is moved by one unit in its last place:
what sets it apart from bfloat16 is the noise floor.

Each run is a training job with a workdir of its own below --workdir, where the same command goes
on; --runs trains some of them, so that two cores may train two at once. It prints relative
differences over the last quarter, and leaves results.json and loss.svg, once those of FP8, bfloat16
and the noise floor are there.

--promotion does without training: the error of an E4M3 product on a simulated accumulator of 14
bits, with and without promotion to float32 every 128 of K; it leaves promotion.json and .svg.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from deepseek_jax.config import ComputeConfig, require
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.paths import local_path
from deepseek_jax.seeds import random_key
from deepseek_jax.train.checkpoint import Checkpointer
from deepseek_jax.train.loop import Position, TrainingDiverged
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.optimizer import make_optimizer
from deepseek_jax.train.pretrain_job import PretrainJob, pretrain_job, run_pretrain
from deepseek_jax.train.state import TrainState, init_state
from deepseek_jax.train.workdir import Workdir, write_atomically
from deepseek_jax.types import Weights
from experiments import program
from experiments.studies.curves import difference, table
from experiments.studies.plots import draw_losses, draw_promotion
from pallas_kernels.gemm import promotion

FLAGS = flags.FLAGS
RUNS = {  # name: precision
  "float32": "plain",
  "bfloat16": "bfloat16",
  "bfloat16_moved": "bfloat16",
  "fp8": "fp8",
  "fp8_gradient_blocks": "fp8_gradient_blocks",
}
REFERENCE, FLOOR = "bfloat16", "bfloat16_moved"
BOUND = 0.0025  # 2412.19437, appendix B.1


def main() -> None:
  """Trains what is not trained yet, and compares."""
  if FLAGS.promotion:
    require(bool(FLAGS.workdir), "--workdir is missing; give --workdir=DIR.")
    study_promotion(local_path(FLAGS.workdir))
    return
  values, workdir = program.training_config()
  job, directory = pretrain_job(values), local_path(workdir)
  for name in FLAGS.runs:
    require(name in RUNS, f"--runs has {name!r}; the runs are {', '.join(RUNS)}.")
  require(not job.init, "config.init is set, but the study makes its own first weights.")
  for name in FLAGS.runs:
    print(name, flush=True)
    train(job, directory, name)
  curves = {name: losses(directory / name) for name in RUNS}
  done = {name: curve for name, curve in curves.items() if len(curve) == job.train.steps}
  if len(done) < len(RUNS):
    print(f"Not at step {job.train.steps} yet: {', '.join(n for n in RUNS if n not in done)}.")
  if {"fp8", REFERENCE, FLOOR} <= set(done):
    report(done, directory)


def train(job: PretrainJob, directory: Path, name: str) -> None:
  """Brings one run to its end, or says that it diverged."""
  start = directory / f"{name}_start"
  begin(job, start, moved=name == FLOOR)
  compute = dataclasses.replace(job.compute, precision=RUNS[name])
  job = dataclasses.replace(job, compute=compute, init=str(start))
  try:
    run_pretrain(job, directory / name, stage=name)
  except TrainingDiverged as error:
    print(f"{name}: {error}")


def begin(job: PretrainJob, directory: Path, moved: bool) -> None:
  """The first weights as a workdir that jobs start from, made once."""
  job = dataclasses.replace(job, compute=ComputeConfig())
  with Workdir(directory, job) as workdir:
    load_tokenizer(job.data.tokenizer).save(workdir.tokenizer)
    checkpointer = Checkpointer(workdir.checkpoints)
    try:
      if checkpointer.latest_step() is None:
        state = first_state(job, moved)
        checkpointer.save(0, state, dataclasses.asdict(Position()))
    finally:
      checkpointer.close()


def first_state(job: PretrainJob, moved: bool) -> TrainState:
  """Random weights and a fresh optimiser."""
  draw = jax.jit(init_weights, static_argnums=0)
  weights = draw(Transformer(job.model), random_key(job.seed))
  return init_state(with_one_moved(weights) if moved else weights, make_optimizer(job.optimizer))


def with_one_moved(weights: Weights) -> Weights:
  """`weights` with one scale of the final norm, which no precision rounds, a unit higher."""
  norm_D = np.array(weights.params["norm_D"])
  norm_D[0] = np.nextafter(norm_D[0], np.float32(np.inf))
  return dataclasses.replace(weights, params={**weights.params, "norm_D": norm_D})


def losses(directory: Path) -> list[float]:
  """The loss of every step, in nats per token, without that of MTP modules."""
  return [record["ce"] for record in read_metrics(directory / "metrics.jsonl")]


def report(curves: dict[str, list[float]], directory: Path) -> None:
  """Prints the table and the verdict, and writes the result and the plot."""
  found = {name: difference(curve, curves[REFERENCE]) for name, curve in curves.items()}
  fp8, floor = abs(found["fp8"].relative), abs(found[FLOOR].relative)
  print(f"Over the last {found['fp8'].steps} steps, relative to {REFERENCE}:")
  print(table(curves, REFERENCE))
  print(f"fp8 lies {100 * fp8:.3f} % from bfloat16; the bound is {100 * BOUND:.2f} %, and the")
  print(f"noise floor, of one weight moved by one unit in the last place, {100 * floor:.3f} %.")
  result: dict[str, Any] = {name: dataclasses.asdict(d) for name, d in found.items()}
  result["within"] = {"bound": fp8 < BOUND, "noise_floor": fp8 <= floor}
  write_atomically(directory / "results.json", json.dumps(result, indent=2) + "\n")
  draw_losses(curves, REFERENCE, BOUND, directory / "loss.svg")


def study_promotion(directory: Path) -> None:
  """Prints, writes and draws what promotion every 128 of K buys."""
  rows = promotion.errors()
  print(f"{'K':>6}{'promoted':>12}{'never':>12}")
  for row in rows:
    print(f"{row['K']:>6}{100 * row['promoted']:>11.4f}%{100 * row['not_promoted']:>11.4f}%")
  directory.mkdir(parents=True, exist_ok=True)
  write_atomically(directory / "promotion.json", json.dumps(rows, indent=2) + "\n")
  draw_promotion(rows, directory / "promotion.svg")


if __name__ == "__main__":
  program.training_flags()
  flags.DEFINE_list("runs", list(RUNS), "Which runs to train now.")
  flags.DEFINE_bool("promotion", False, "Study the accumulator instead.")
  program.run(main)
