"""Measures a model on a benchmark: pass@1, pass@k, length, reflection, language, truncation.

  python -m experiments.evaluate --model=runs/r1 --benchmark=mini --out=runs/r1_eval

--model is a workdir, a Hugging Face directory, a GGUF file or a model's name on the Hub, org/name
or org/name@revision. --benchmark is a task (mini, countdown, chain_sum, guess, code:FILE.jsonl,
reasoning_gym:DATASET, [isolated:]package.module:name), a file of JSON lines {"prompt": ...,
"answer": ...}, or a dataset of --split: a directory, or org/name[@revision] of the Hub. It is asked
in the model's own turns where it has them, unless --template says plain or r1_zero; every token
that its files name ends an answer. --turns is how often the model may speak where a task answers.
--judge=exact compares a file's answers by their forms, math-verify also as mathematics. Each of
--temperatures is measured: 0 once per problem, the others --samples times. --out gets config.json,
results.json, report.html and completions.jsonl. R1's published protocol is --temperatures=0.6
--top_p=0.95 --samples=64 --max_new=32768. code:FILE.jsonl asks the held-out fifth of a file's
programming problems, code:FILE.jsonl@all every one.
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
from deepseek_jax.evaluate.evaluation import Evaluation, Protocol, content_of, evaluate_each
from deepseek_jax.evaluate.figures import table
from deepseek_jax.evaluate.report import Report, choose_exhibits, write_report
from deepseek_jax.evaluate.results import write_results, write_text
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.environment import check_turns
from deepseek_jax.tasks.task import Task
from experiments import benchmark, program

FLAGS = flags.FLAGS


def main() -> None:
  """Runs the evaluation of the flags."""
  for name in ("model", "benchmark", "out"):
    if not FLAGS[name].value:
      raise ConfigError(f"--{name} is missing; give --model=DIR --benchmark=NAME|FILE --out=DIR.")
  start = time.monotonic()
  task = benchmark.chosen()
  check_turns(task, FLAGS.turns, "--turns")
  protocols = _protocols(task)
  model = api.load(FLAGS.model, FLAGS.stage)
  require(model.tokenizer is not None, f"{FLAGS.model} has no tokenizer to read prompts with.")
  assert model.tokenizer is not None
  template = FLAGS.template or own_form(model.tokenizer)
  protocols = [dataclasses.replace(protocol, template=template) for protocol in protocols]
  engine = SlotEngine(model.transformer, FLAGS.batch)
  context = model.config.max_context
  evaluations = evaluate_each(engine, model.weights, model.tokenizer, task, protocols, context)
  _write(local_path(FLAGS.out), evaluations, time.monotonic() - start)


def _protocols(task: Task) -> list[Protocol]:
  """One protocol for each of --temperatures, in the plain form."""
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
  content = content_of(task)
  return [
    Protocol(
      benchmark=task.name,
      problems=benchmark.size(task),
      samples=FLAGS.samples if temperature else 1,
      temperature=temperature,
      top_p=FLAGS.top_p if temperature else 1.0,
      max_new=FLAGS.max_new,
      turns=FLAGS.turns,
      judge=benchmark.judge(task),
      content=content,
      seed=FLAGS.seed,
    )
    for temperature in temperatures
  ]


def _write(out: Path, evaluations: Sequence[Evaluation], seconds: float) -> None:
  """Writes what was measured, and prints the table."""
  stage = FLAGS.stage or Path(FLAGS.model).name
  figures = [figure for evaluation in evaluations for figure in evaluation.figures(stage)]
  protocol = evaluations[0].protocol
  config = {name: FLAGS[name].value for name in _OWN}
  config |= {"template": protocol.template, "judge": protocol.judge}
  config |= {"content": protocol.content} if protocol.content else {}
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
  *("max_new", "turns", "template", "judge", "split", "seed", "batch"),
)

if __name__ == "__main__":
  flags.DEFINE_string("model", None, "A workdir, Hugging Face directory, GGUF file or Hub name.")
  flags.DEFINE_string("stage", "", "The stage of an R1 workdir; r1 if not given.")
  flags.DEFINE_string("out", None, "The directory to write.")
  flags.DEFINE_integer("samples", 8, "Per problem.")
  flags.DEFINE_list("temperatures", ["0", "0.6", "1"], "Each is measured; 0 is greedy.")
  flags.DEFINE_float("top_p", 1.0, "Sample from the smallest set of tokens of this probability.")
  flags.DEFINE_integer("max_new", 128, "Tokens of a completion at most, of all turns.")
  flags.DEFINE_integer("turns", 1, "Of the model at most, for a task that answers it.")
  flags.DEFINE_string("template", None, "turns, plain or r1_zero; turns where the model has them.")
  flags.DEFINE_integer("seed", 0, "Of the sampling.")
  flags.DEFINE_integer("batch", 256, "Completions sampled at a time.")
  benchmark.define_flags()
  program.verifier_flags()
  program.run(main)
