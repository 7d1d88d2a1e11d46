"""Measures a model on a benchmark: pass@1, pass@k, length, reflection, language, truncation.

  python -m experiments.evaluate --model=runs/r1 --benchmark=mini --out=runs/r1_eval

--model is a workdir, a Hugging Face directory, a GGUF file or a model's name on the Hub, org/name
or org/name@revision. --benchmark is a task (mini, countdown, chain_sum, reasoning_gym:DATASET,
code:FILE.jsonl, [isolated:]package.module:name), a file of JSON lines {"prompt": ..., "answer":
...}, or a dataset of --split: a directory, or org/name[@revision] of the Hub. It is asked in the
model's own turns where it has them, unless --template says plain or r1_zero; every token that its
files name ends an answer. --judge=exact compares a file's answers by their forms, math-verify also
as mathematics. Each of --temperatures is measured: 0 once per problem, the others --samples times.
--out gets config.json, results.json, report.html and completions.jsonl. R1's published protocol is
--temperatures=0.6 --top_p=0.95 --samples=64 --max_new=32768. code:FILE.jsonl asks the held-out
fifth of a file's programming problems, code:FILE.jsonl@all every one.
"""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from deepseek_jax import api
from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.asking import own_form
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.evaluate.benchmark import judge_of, open_benchmark
from deepseek_jax.evaluate.evaluation import Evaluation, Protocol, evaluate_each
from deepseek_jax.evaluate.figures import table
from deepseek_jax.evaluate.file_benchmark import JUDGES, FileBenchmark
from deepseek_jax.evaluate.report import Report, choose_exhibits, write_report
from deepseek_jax.evaluate.results import write_results, write_text
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.code.task import Code
from deepseek_jax.tasks.task import Task
from experiments import program

FLAGS = flags.FLAGS


def main() -> None:
  """Runs the evaluation of the flags."""
  for name in ("model", "benchmark", "out"):
    if not FLAGS[name].value:
      raise ConfigError(f"--{name} is missing; give --model=DIR --benchmark=NAME|FILE --out=DIR.")
  start = time.monotonic()
  task = open_benchmark(FLAGS.benchmark, FLAGS.judge, FLAGS.split)
  protocols = _protocols(task)
  model = api.load(FLAGS.model, FLAGS.stage)
  require(model.tokenizer is not None, f"{FLAGS.model} has no tokenizer to read prompts with.")
  assert model.tokenizer is not None
  template = FLAGS.template or own_form(model.tokenizer)
  protocols = [dataclasses.replace(protocol, template=template) for protocol in protocols]
  engine = SlotEngine(model.transformer, FLAGS.batch)
  evaluations = evaluate_each(engine, model.weights, model.tokenizer, task, protocols)
  _write(local_path(FLAGS.out), evaluations, time.monotonic() - start)


def _protocols(task: Task) -> list[Protocol]:
  """One protocol for each of --temperatures, in the plain form."""
  size = _size(task)
  try:
    temperatures = [float(t) for t in FLAGS.temperatures]
  except ValueError as error:
    raise ConfigError(f"--temperatures is {FLAGS.temperatures}; give numbers.") from error
  require(len(temperatures) > 0, "--temperatures is empty; give at least one number.")
  for given, temperature in zip(FLAGS.temperatures, temperatures, strict=True):
    require(
      0 <= temperature < math.inf,
      f"--temperatures has {given}; give finite numbers that are not negative.",
    )
  return [
    Protocol(
      benchmark=task.name,
      problems=size if FLAGS.problems is None else FLAGS.problems,
      samples=FLAGS.samples if temperature else 1,
      temperature=temperature,
      top_p=FLAGS.top_p if temperature else 1.0,
      max_new=FLAGS.max_new,
      judge=_judge(task),
      seed=FLAGS.seed,
    )
    for temperature in temperatures
  ]


def _size(task: Task) -> int:
  """How many problems are asked unless --problems says so: all of a file's, if they are few."""
  if isinstance(task, Code):
    return min(256, len(task.of_split("heldout")))
  return len(task.problems) if isinstance(task, FileBenchmark) else 256


def _judge(task: Task) -> str:
  """What judges a benchmark from a file, as the protocol has it; ConfigError if flags say of what
  is none."""
  for flag in ("judge", "split"):
    require(
      isinstance(task, FileBenchmark) or not FLAGS[flag].present,
      f"--{flag} is for a benchmark from a file or dataset, and {FLAGS.benchmark} is a task.",
    )
  return judge_of(task)


def _write(out: Path, evaluations: Sequence[Evaluation], seconds: float) -> None:
  """Writes what was measured, and prints the table."""
  stage = FLAGS.stage or Path(FLAGS.model).name
  figures = [figure for evaluation in evaluations for figure in evaluation.figures(stage)]
  protocol = evaluations[0].protocol
  config = {name: FLAGS[name].value for name in _OWN}
  config |= {"template": protocol.template, "judge": protocol.judge}
  write_text(out / "config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
  lines = [json.dumps(r, ensure_ascii=False) for e in evaluations for r in e.records()]
  write_text(out / "completions.jsonl", "".join(f"{line}\n" for line in lines))
  report = Report(
    title=f"{stage} on {protocol.benchmark}",
    facts=config,
    figures=figures,
    exhibits=choose_exhibits({stage: evaluations[-1]}),
  )
  write_report(out / "report.html", report)
  write_results(out / "results.json", figures, seconds)
  print(table(figures))


_OWN = (
  *("model", "stage", "benchmark", "out", "problems", "samples", "temperatures", "top_p"),
  *("max_new", "template", "judge", "split", "seed", "batch"),
)

if __name__ == "__main__":
  flags.DEFINE_string("model", None, "A workdir, Hugging Face directory, GGUF file or Hub name.")
  flags.DEFINE_string("stage", "", "The stage of an R1 workdir; r1 if not given.")
  flags.DEFINE_string("benchmark", None, "A task, a file of JSON lines, or a dataset.")
  flags.DEFINE_string("out", None, "The directory to write.")
  flags.DEFINE_integer("problems", None, "How many; by default 256, or all of a file.")
  flags.DEFINE_integer("samples", 8, "Per problem.")
  flags.DEFINE_list("temperatures", ["0", "0.6", "1"], "Each is measured; 0 is greedy.")
  flags.DEFINE_float("top_p", 1.0, "Sample from the smallest set of tokens of this probability.")
  flags.DEFINE_integer("max_new", 128, "Tokens of a completion at most.")
  flags.DEFINE_string("template", None, "turns, plain or r1_zero; turns where the model has them.")
  flags.DEFINE_enum(
    "judge", None, JUDGES, "Of a file's answers; math-verify where it is installed."
  )
  flags.DEFINE_string("split", "test", "Of a dataset; CONFIGURATION/SPLIT where it has several.")
  flags.DEFINE_integer("seed", 0, "Of the sampling.")
  flags.DEFINE_integer("batch", 256, "Completions sampled at a time.")
  program.verifier_flags()
  program.run(main)
