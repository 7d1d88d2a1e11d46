"""The distillation job: a student learns from a teacher's answers, from its logits, or both.

The teacher's answers are drawn by rejection sampling on a task and kept in the workdir as
traces.jsonl, so that a resumed run learns from the same ones; or they are read from a file. A model
that is its own teacher and is shown `traces.policy` meanwhile learns to keep to it unasked.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from deepseek_jax.by_name import pinned
from deepseek_jax.config import from_dict, require
from deepseek_jax.data.asking import own_form
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.document import Document, Sample, make_sample
from deepseek_jax.data.omissions import Omissions
from deepseek_jax.data.pipeline import read_samples, that_fit
from deepseek_jax.data.records import read_records
from deepseek_jax.data.tokenizer import Tokenizer, same_tokens
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.evaluate.benchmark import open_task
from deepseek_jax.evaluate.text_job import text_monitor
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.rl.rejection import RejectionConfig, rejection_sample
from deepseek_jax.rl.written_policy import check_room, policy_text
from deepseek_jax.tasks.environment import refuse_turns
from deepseek_jax.train import distill, sft
from deepseek_jax.train.loop import Position, StepFn
from deepseek_jax.train.pretrain import PretrainConfig, PretrainKnobs, make_step
from deepseek_jax.train.pretrain_job import PretrainJob, with_still_router
from deepseek_jax.train.start import (
  load_start,
  open_tokenizer,
  resolve_model,
  tokenizer_place,
)
from deepseek_jax.train.state import TrainState
from deepseek_jax.train.workdir import Workdir, write_atomically
from deepseek_jax.types import Batch, Weights


@dataclasses.dataclass(frozen=True)
class DistillJob(PretrainJob):
  """A fine-tuning job with a teacher. `model` and `data` are the student's.

  With `data.source` problems, the traces are the teacher's own on `data.task`; any other source is
  read. `mix` is the share of the divergence from the teacher's logits in the loss; 0, text alone,
  is R1's way.
  """

  teacher: str = ""  # a workdir, Hugging Face directory, GGUF file or Hub name
  traces: RejectionConfig = RejectionConfig()
  mix: float = 0.0
  temperature: float = 1.0  # of both distributions in the divergence
  engine_batch: int = 256

  def __post_init__(self) -> None:
    super().__post_init__()
    require(0 <= self.mix <= 1, f"mix is {self.mix}; it must be in [0, 1].")
    require(self.temperature > 0, f"temperature is {self.temperature}; it must be positive.")
    require(
      bool(self.teacher),
      "teacher is missing; name the workdir or Hugging Face directory of one.",
    )
    judged = "policy" if self.traces.policy else "cites" if self.traces.cites else ""
    require(
      not judged or self.data.source == "problems",
      f"traces.{judged} is set, but data.source is {self.data.source!r} and nothing is sampled; "
      "leave it out, or make data.source problems.",
    )
    require(
      not self.traces.policy or self.mix == 0,
      f"traces.policy is set, but mix is {self.mix}, and the teacher's logits are of prompts "
      "without it; make mix 0.",
    )


def distill_job(values: Mapping[str, Any]) -> DistillJob:
  """The job of a config's values; those not among them are defaults, or as the models have them."""
  given = sft.with_answers(values)
  model = resolve_model(given.pop("model", {}), given["init"])
  given["teacher"] = pinned(given.get("teacher") or "")
  traces = dict(given.get("traces") or {})
  if given["teacher"] and "template" not in traces:
    theirs = _teacher_tokenizer(given["teacher"], given["data"]["tokenizer"])
    traces["template"] = own_form(theirs)
  if isinstance(traces.get("policy"), str):
    traces["policy"] = policy_text(traces["policy"])
  given["traces"] = traces
  return from_dict(DistillJob, {**with_still_router(given), "model": model})


def _teacher_tokenizer(teacher: str, ours: str) -> Tokenizer:
  """The teacher's own, or the student's for one that brings none."""
  return open_tokenizer(tokenizer_place(teacher) or ours)


def run_distill(
  job: DistillJob, directory: str | Path, stage: str = ""
) -> tuple[TrainState, Position]:
  """Distils, or goes on distilling, in the workdir `directory`; see `train.run.run_job`."""
  if job.data.source == "problems":
    refuse_turns(open_task(job.data.task), "distillation")
  tokenizer = open_tokenizer(job.data.tokenizer)
  monitor = text_monitor(job, "Distillation", engine_batch=job.engine_batch)
  theirs = _teacher_tokenizer(job.teacher, job.data.tokenizer)
  require(
    job.mix == 0 or same_tokens(tokenizer, theirs),
    f"the student's tokenizer, {job.data.tokenizer}, is not that of the teacher {job.teacher}, so "
    "their logits are of different tokens; set mix to 0, which distils on text.",
  )
  config, weights, _ = load_start(job.teacher)
  traces = job.traces
  check_room(traces.policy, theirs, traces.template, traces.max_new, config.max_context)
  teacher = Transformer(config, job.compute)
  weights = jax.device_put(weights)
  if job.data.source == "problems":
    with Workdir(directory, job) as workdir:
      path = workdir.path / "traces.jsonl"
      if not path.exists():
        _write_traces(path, job, teacher, weights, theirs)
    samples = _read_traces(path, tokenizer, job.data)
  else:
    samples = read_samples(job.data, tokenizer)
  compiled = PretrainConfig(job.loss_chunk, job.optimizer.ema_decay)

  def make(model: Transformer, tx: optax.GradientTransformation) -> StepFn:
    if job.mix == 0:
      return make_step(model, tx, compiled)
    step = distill.make_step(model, teacher, tx, compiled, tokenizer.vocab_size)

    def with_teacher(state: TrainState, batch: Batch, knobs: PretrainKnobs):
      return step(state, weights, batch, distill.DistillKnobs(knobs, job.mix, job.temperature))

    return with_teacher

  return sft.tune(job, tokenizer, samples, directory, make, stage, monitor)


def _write_traces(
  path: Path, job: DistillJob, teacher: Transformer, weights: Weights, tokenizer: Tokenizer
) -> None:
  """The teacher's answers that are fit to be learnt from; ConfigError if there is none."""
  engine = SlotEngine(teacher, job.engine_batch)
  task = open_task(job.data.task)
  selection = rejection_sample(engine, weights, task, tokenizer, job.traces, job.data.seed)
  require(
    bool(selection.kept),
    f"the teacher {job.teacher} gave no answer to {job.data.task} that could be kept: "
    f"{selection.text()}; train it further, raise traces.prompts, or ask less (traces.cites, "
    "format, language, repeated) in another workdir.",
  )
  print(f"traces: {selection.text()}", file=sys.stderr, flush=True)
  records = [{"prompt": c.problem.prompt, "text": c.text} for c in selection.kept]
  lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
  write_atomically(path, "".join(lines))


def _read_traces(path: Path, tokenizer: Tokenizer, data: DataConfig) -> list[Sample]:
  """The traces that are not longer than a row; the others are left out and told."""
  omissions, records = Omissions(str(path)), read_records(path)
  documents = ((place, Document(r["text"], r["prompt"])) for place, r in records)
  made = ((place, make_sample(tokenizer, document, data.template)) for place, document in documents)
  samples = that_fit(made, data.length, omissions)
  omissions.total(len(records))
  require(bool(samples), omissions.nothing_left())
  return samples
