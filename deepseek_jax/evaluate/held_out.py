"""evaluations.jsonl: a run measured on held-out problems while it goes, at steps of its own.

Samples of an evaluation have counters of their own (see `evaluation.py`) and nothing of it enters
the run, which is bit for bit the one that was not measured. As in metrics.jsonl the records of one
uninterrupted story: a run that resumes removes those behind its checkpoint, measures them anew, and
does not repeat what is there.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.data.asking import ask
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import Engine
from deepseek_jax.evaluate.benchmark import judge_of, open_benchmark
from deepseek_jax.evaluate.estimators import paired_difference
from deepseek_jax.evaluate.evaluation import (
  Evaluation,
  Protocol,
  content_of,
  draw_problems,
  evaluate_each,
)
from deepseek_jax.evaluate.figures import Figure, figure, format_figure
from deepseek_jax.evaluate.file_benchmark import FileBenchmark
from deepseek_jax.evaluate.report import Exhibit, choose_exhibits
from deepseek_jax.evaluate.results import read_metrics
from deepseek_jax.hosts import group
from deepseek_jax.tasks.code.task import Code
from deepseek_jax.tasks.environment import check_turns
from deepseek_jax.tasks.task import Task
from deepseek_jax.train.metrics import append_line
from deepseek_jax.train.periodic_evaluation import PeriodicEvaluation
from deepseek_jax.train.workdir import write_atomically
from deepseek_jax.types import Weights

FILE = "evaluations.jsonl"


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """What is measured of a run, and every how many steps."""

  task: Task
  tokenizer: Tokenizer
  protocols: tuple[Protocol, ...]
  every: int
  context: int  # tokens of a prompt with all that follows it


def open_held_out(
  config: PeriodicEvaluation,
  own: Task | None,
  tokenizer: Tokenizer,
  template: str,
  context: int,
  seed: int,
  turns: int = 1,
) -> HeldOut | None:
  """The held-out problems of a job: of `config.benchmark`, or of its `own` task. None if off.

  Raises:
    ConfigError: there is no such benchmark, it has too few problems, or one of them with its answer
      would not fit into the model's `context`.
  """
  if not config.every:
    return None
  require(
    bool(config.benchmark) or own is not None,
    "evaluation.benchmark is missing, and this job's data have no task of their own; name a task, "
    "a file or a dataset.",
  )
  require(
    config.max_new > 0,
    "evaluation.max_new is 0, and this job has no rollouts; say how many tokens an answer has at "
    "most.",
  )
  task = open_benchmark(config.benchmark) if config.benchmark else own
  assert task is not None
  check_turns(task, turns, "evaluation.benchmark's turns")
  config = dataclasses.replace(config, problems=min(config.problems, _size(task)))
  protocols = tuple(_protocol(config, task, t, template, seed, turns) for t in config.temperatures)
  for problem in draw_problems(task, protocols[0]):
    size = len(ask(tokenizer, problem.prompt, template).tokens)
    require(
      size + config.max_new <= context,
      f"a held-out prompt of {task.name} has {size} tokens, which with evaluation.max_new, "
      f"{config.max_new}, exceed the model's context of {context}; lower it.",
    )
  return HeldOut(task, tokenizer, protocols, config.every, context)


def _size(task: Task) -> int:
  """How many held-out problems a task from a file has; of others there are any number."""
  if isinstance(task, FileBenchmark):
    return len(task.of_split("heldout"))
  return len(task.of_split("heldout")) if isinstance(task, Code) else sys.maxsize


def _protocol(
  config: PeriodicEvaluation, task: Task, temperature: float, template: str, seed: int, turns: int
) -> Protocol:
  return Protocol(
    benchmark=task.name,
    problems=config.problems,
    samples=config.samples if temperature else 1,
    temperature=temperature,
    max_new=config.max_new,
    template=template,
    turns=turns,
    judge=judge_of(task),
    content=content_of(task),
    seed=seed,
  )


class EvaluationLog:
  """The evaluations of a run in its workdir."""

  def __init__(self, folder: Path, held_out: HeldOut, engine: Engine, step: int):
    """Goes on behind `step`."""
    self.path, self._held_out, self._engine = folder / FILE, held_out, engine
    self._events: Path = folder / "tensorboard" / "held_out"
    self._writer: Any = None
    recorded = group.from_first(lambda: read_metrics(self.path))
    kept = [record for record in recorded if record["step"] <= step]
    if self.path.exists():
      write_atomically(self.path, "".join(_line(record) for record in kept))
    self._done = {(record["step"], tuple(record["solved"])) for record in kept}

  def due(self, step: int) -> bool:
    """Whether it is to be measured after so many steps, and has not been."""
    return step % self._held_out.every == 0 and not self._has(step)

  def measure(self, step: int, weights: Weights) -> None:
    """Measures the weights and keeps and tells what came of it, unless it is there already.

    Raises:
      ConfigError: the disk is full; the file is left as it was.
    """
    if self._has(step):
      return
    h = self._held_out
    evaluations = evaluate_each(self._engine, weights, h.tokenizer, h.task, h.protocols, h.context)
    record = _record(step, evaluations)
    append_line(self.path, _line(record).rstrip("\n"))
    self._done.add((step, tuple(record["solved"])))
    self._draw(step, record["figures"])
    print(_told(step, record["figures"]), file=sys.stderr, flush=True)

  def _draw(self, step: int, figures: Sequence[Figure]) -> None:
    """Hands the figures to TensorBoard, beside the curves of training."""
    if not group.first():
      return
    if self._writer is None:
      from tensorboardX import SummaryWriter  # which imports torch where that is installed

      self._writer = SummaryWriter(str(self._events), purge_step=step)
    for each in figures:
      protocol = each["benchmark"].rpartition(" #")[0]
      self._writer.add_scalar(f"{protocol}/{each['metric']}", each["value"], step)
    self._writer.flush()

  def _has(self, step: int) -> bool:
    return (step, tuple(p.label for p in self._held_out.protocols)) in self._done


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
  """The evaluations of a workdir in their order; none where it was never measured."""
  return read_metrics(folder / FILE)


def measured_figures(records: Sequence[Mapping[str, Any]]) -> list[tuple[int, Figure]]:
  """Every figure with the step after which it was measured."""
  return [(record["step"], each) for record in records for each in record["figures"]]


def gains(records: Sequence[Mapping[str, Any]]) -> list[Figure]:
  """What the end has over the beginning in pass@1, pass@k and both leniently, by protocol.

  Paired over problems. Records of older runs have pass@1 alone.
  """
  found = []
  for label in dict.fromkeys(label for record in records for label in record["solved"]):
    first, *_, last = 2 * [record for record in records if label in record["solved"]]
    if first["step"] == last["step"]:
      continue
    seed = next(f["seed"] for f in last["figures"] if f["benchmark"] == label)
    before, after = _solved(first, label), _solved(last, label)
    for metric in [metric for metric in after if metric in before]:
      estimate = paired_difference(np.array(after[metric]), np.array(before[metric]))
      name, size = f"{metric} over {_stage(first['step'])}", len(after[metric])
      found.append(figure(_stage(last["step"]), label, name, estimate, size, seed))
  return found


def _solved(record: Mapping[str, Any], label: str) -> dict[str, list[float]]:
  """By metric, what a protocol found of each problem."""
  return {"pass@1": record["solved"][label], **record.get("besides", {}).get(label, {})}


def exhibits(records: Sequence[Mapping[str, Any]]) -> list[Exhibit]:
  """The same problems before and after, as answered at the last temperature."""
  if not records:
    return []
  chosen = [records[0], records[-1]] if len(records) > 1 else [records[0]]
  return [Exhibit(**exhibit) for record in chosen for exhibit in record["exhibits"]]


def _record(step: int, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
  stage = _stage(step)
  return {
    "step": step,
    "figures": [each for evaluation in evaluations for each in evaluation.figures(stage)],
    "solved": {e.protocol.label: _rounded(e.solved()["pass@1"]) for e in evaluations},
    "besides": {
      e.protocol.label: {
        metric: _rounded(values_P) for metric, values_P in e.solved().items() if metric != "pass@1"
      }
      for e in evaluations
    },
    "exhibits": [
      dataclasses.asdict(exhibit) for exhibit in choose_exhibits({stage: evaluations[-1]})
    ],
  }


def _rounded(values_P: np.ndarray) -> list[float]:
  return np.round(values_P, 6).tolist()


def _stage(step: int) -> str:
  """What figures call a run after so many steps."""
  return f"step {step}"


def _line(record: Mapping[str, Any]) -> str:
  return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _told(step: int, figures: Sequence[Figure]) -> str:
  """pass@k of every protocol in one line."""
  each = [
    f"{f['benchmark'].rpartition(' #')[0]} {f['metric']} {format_figure(f['value'])} "
    f"[{format_figure(f['ci95'][0])}, {format_figure(f['ci95'][1])}]"
    for f in figures
    if f["metric"].startswith("pass@") or f["metric"] == "lenient"
  ]
  return f"held out after step {step}: {', '.join(each)}"
