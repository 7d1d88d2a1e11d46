"""Measures how a model reflects: its words, what its turns change, and what they are worth.

  python -m experiments.reflection --model=W --stage=r1_zero --base=W --benchmark=mini --out=DIR

--model and --benchmark are those of experiments.evaluate; programs (code:FILE.jsonl) have no
answers within a thought and are refused. --base is the model of step 0, asked the same problems:
each figure is also given less the base's, and that at equal length. Of an R1 workdir it is
--base_stage, by default `base`.

Each model's completions are branched: cut before the first reflection word behind an answer, with
--closing, which opens the answer, put there; and at the end of a thought gone on with behind
--word. By default --closing is what the model itself writes between thought and answer, and --word
is `wait` or, of a Chinese problem, its counterpart. --nobranches leaves that out.

--out gets config.json, results.json, report.html with the turns marked, and completions.jsonl.
"""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from deepseek_jax import api
from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.asking import own_form
from deepseek_jax.data.tokenizer import Tokenizer, same_tokens
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.evaluate.evaluation import Protocol, content_of, evaluate
from deepseek_jax.evaluate.figures import Figure
from deepseek_jax.evaluate.reflection.exhibits import render
from deepseek_jax.evaluate.reflection.measures import FEWEST, accuracy_by_length
from deepseek_jax.evaluate.reflection.study import Subject, require_answers, study
from deepseek_jax.evaluate.reflection.turns import answer_form
from deepseek_jax.evaluate.results import write_results, write_text
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.environment import refuse_turns
from deepseek_jax.tasks.task import Task
from experiments import benchmark, program

FLAGS = flags.FLAGS


def main() -> None:
  """Runs the study of the flags."""
  for name in ("model", "benchmark", "out"):
    if not FLAGS[name].value:
      raise ConfigError(f"--{name} is missing; give --model=M --benchmark=NAME|FILE --out=DIR.")
  start = time.monotonic()
  task = benchmark.chosen()
  refuse_turns(task, "experiments.reflection")
  require_answers(task)
  protocol = _protocol(task)
  require(
    protocol.problems >= FEWEST,
    f"--problems is {protocol.problems}; intervals over problems need {FEWEST} at least.",
  )
  models = _models()
  tokenizer = models[-1][1].tokenizer
  assert tokenizer is not None
  protocol = Protocol(**{**vars(protocol), "template": FLAGS.template or own_form(tokenizer)})
  subjects = _subjects(models, tokenizer, task, protocol)
  figures = [figure for subject in subjects for figure in subject.figures()]
  if len(subjects) > 1:
    figures += subjects[1].over(subjects[0])
  counts = {subject.stage: subject.counts for subject in subjects}
  figures += accuracy_by_length(subjects[0].evaluation, counts)
  _write(local_path(FLAGS.out), task, protocol, subjects, figures, time.monotonic() - start)


def _protocol(task: Task) -> Protocol:
  """The protocol of the flags, but for the template, which the model may say."""
  require(
    0 <= FLAGS.temperature < math.inf,
    f"--temperature is {FLAGS.temperature}; give a finite number that is not negative.",
  )
  return Protocol(
    benchmark=task.name,
    problems=benchmark.size(task),
    samples=FLAGS.samples if FLAGS.temperature else 1,
    temperature=FLAGS.temperature,
    top_p=FLAGS.top_p if FLAGS.temperature else 1.0,
    max_new=FLAGS.max_new,
    judge=benchmark.judge(task),
    content=content_of(task),
    seed=FLAGS.seed,
  )


def _models() -> list[tuple[str, api.Model]]:
  """The base, if there is one, and the model, each by its name in figures."""
  model = api.load(FLAGS.model, FLAGS.stage)
  require(model.tokenizer is not None, f"{FLAGS.model} has no tokenizer to read prompts with.")
  named = [(FLAGS.stage or Path(FLAGS.model).name, model)]
  if not FLAGS.base:
    require(not FLAGS.base_stage, "--base_stage is of --base; give --base=M too, or leave it out.")
    return named
  recipe = (local_path(FLAGS.base) / "stages").is_dir()
  stage = FLAGS.base_stage or ("base" if recipe else "")
  base = api.load(FLAGS.base, stage)
  require(
    base.tokenizer is not None
    and model.tokenizer is not None
    and same_tokens(base.tokenizer, model.tokenizer),
    f"--base {FLAGS.base} has another tokenizer than --model {FLAGS.model}, so that lengths and "
    "rates per token are not comparable; name a base of the same tokenizer.",
  )
  name = stage or Path(FLAGS.base).name
  return [(f"base {name}" if name == named[0][0] else name, base), *named]


def _subjects(
  models: Sequence[tuple[str, api.Model]], tokenizer: Tokenizer, task: Task, protocol: Protocol
) -> list[Subject]:
  """Every model asked, and its completions studied."""
  for text in (FLAGS.closing, FLAGS.word):
    tokenizer.encode(text)  # which refuses what it cannot read, before anything is sampled
  engines = [SlotEngine(model.transformer, FLAGS.batch) for _, model in models]
  evaluations = [
    evaluate(engine, model.weights, tokenizer, task, protocol)
    for engine, (_, model) in zip(engines, models, strict=True)
  ]
  form = answer_form(task, evaluations)
  return [
    study(
      name, engine, model.weights, tokenizer, task, evaluation, form,
      FLAGS.branches, FLAGS.closing, FLAGS.word,
    )
    for engine, (name, model), evaluation in zip(engines, models, evaluations, strict=True)
  ]  # fmt: skip


def _write(
  out: Path,
  task: Task,
  protocol: Protocol,
  subjects: Sequence[Subject],
  figures: Sequence[Figure],
  seconds: float,
) -> None:
  """Writes what was measured, and prints the tables."""
  config = {name: FLAGS[name].value for name in _OWN}
  config |= {"template": protocol.template, "judge": protocol.judge}
  config["candidates"] = "the task's" if hasattr(task, "candidates") else _NUMBERS
  config |= {f"closing of {s.stage}": s.closing for s in subjects if s.closing}
  write_text(out / "config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
  lines = [json.dumps(r, ensure_ascii=False) for s in subjects for r in s.records()]
  write_text(out / "completions.jsonl", "".join(f"{line}\n" for line in lines))
  title = f"Reflection of {subjects[-1].stage} on {protocol.label}"
  shown = {name: value for name, value in config.items() if value not in (None, "")}
  write_text(out / "report.html", render(title, shown, subjects, figures))
  write_results(out / "results.json", figures, seconds)
  _tell([subject.stage for subject in subjects], figures)


def _tell(stages: Sequence[str], figures: Sequence[Figure]) -> None:
  """Prints every figure: metrics down, models across, then what sets one apart from another."""
  levels = {(f["stage"], f["metric"]): f for f in figures if " over " not in f["metric"]}
  width = max(len(f["metric"]) for f in figures) + 2
  print(f"{figures[0]['benchmark']}, seed {figures[0]['seed']}")
  print(f"{'':<{width}}" + "".join(f"{stage:<28}" for stage in stages))
  for metric in dict.fromkeys(metric for _, metric in levels):
    cells = [levels.get((stage, metric)) for stage in stages]
    print((f"{metric:<{width}}" + "".join(f"{_cell(f, ''):<28}" for f in cells)).rstrip())
  for f in figures:
    if " over " in f["metric"]:
      print(f"{f['metric']:<{width}}{f['stage']:<16}{_cell(f, '+')}")


def _cell(found: Figure | None, sign: str) -> str:
  if found is None:
    return "-"
  value, low, high = (f"{x:{sign}.3f}" for x in (found["value"], *found["ci95"]))
  return f"{value} [{low}, {high}]"


_NUMBERS = "the last numbers before reflection words, which need not be meant as answers"
_OWN = (
  *("model", "stage", "base", "base_stage", "benchmark", "out", "problems", "samples"),
  *("temperature", "top_p", "max_new", "template", "judge", "split", "seed", "batch"),
  *("branches", "closing", "word"),
)

if __name__ == "__main__":
  flags.DEFINE_string("model", None, "A workdir, Hugging Face directory, GGUF file or Hub name.")
  flags.DEFINE_string("stage", "", "The stage of an R1 workdir; r1 if not given.")
  flags.DEFINE_string("base", None, "The model at step 0, likewise.")
  flags.DEFINE_string("base_stage", "", "Its stage in an R1 workdir; base if not given.")
  flags.DEFINE_string("out", None, "The directory to write.")
  flags.DEFINE_integer("samples", 8, "Per problem.")
  flags.DEFINE_float("temperature", 1.0, "0 is greedy, with one sample per problem.")
  flags.DEFINE_float("top_p", 1.0, "Sample from the smallest set of tokens of this probability.")
  flags.DEFINE_integer("max_new", 128, "Tokens of a completion at most, gone on with or not.")
  flags.DEFINE_string("template", None, "turns, plain or r1_zero; turns where the model has them.")
  flags.DEFINE_integer("seed", 0, "Of the sampling.")
  flags.DEFINE_integer("batch", 256, "Completions sampled at a time.")
  flags.DEFINE_bool("branches", True, "Go on with thoughts otherwise: stripped, and with a word.")
  flags.DEFINE_string("closing", "", "What opens an answer where a thought is cut.")
  flags.DEFINE_string("word", "", "What is inserted where a thought ends.")
  benchmark.define_flags()
  program.verifier_flags()
  program.run(main)
