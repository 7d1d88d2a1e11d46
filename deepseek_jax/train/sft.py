"""Supervised fine-tuning: the job and the step of pre-training, on answers.

What makes it fine-tuning is the data. Samples are whole, and those that share a row are hidden from
one another; prompts carry no loss; every epoch holds each sample once. MTP, balance loss and router
bias stay on, for a model tuned with its router standing still drifts out of balance.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import optax

from deepseek_jax.by_name import pinned
from deepseek_jax.config import require
from deepseek_jax.data.asking import PLAIN, own_form
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.document import Sample
from deepseek_jax.data.pipeline import corpus_fingerprint, read_samples
from deepseek_jax.data.samples import SampleBatches
from deepseek_jax.data.sources import is_talk
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.train.loop import FeedFn, Position, StepFn
from deepseek_jax.train.pretrain import PretrainConfig, make_step
from deepseek_jax.train.pretrain_job import PretrainJob, data_fields, make_feed, pretrain_job
from deepseek_jax.train.run import MakeMonitor, run_job
from deepseek_jax.train.start import open_tokenizer
from deepseek_jax.train.state import TrainState

_NO_LIMIT = 2**31  # steps: the epochs end a fine-tuning that names none
EPOCHS = 2  # R1: two to three (2501.12948)

MakeStep = Callable[[Transformer, optax.GradientTransformation], StepFn]


def sft_job(values: Mapping[str, Any]) -> PretrainJob:
  """The job of a config's values: that of pre-training, with `data.epochs` for `train.steps`."""
  return pretrain_job(with_answers(values))


def own_template(fields: Mapping[str, Any]) -> str:
  """How the prompts of these fields of `DataConfig` are put: in the tokenizer's own turns, if both
  are there."""
  asks = fields.get("source", DataConfig.source) == "problems" or bool(fields.get("prompt_field"))
  asks = asks or is_talk(fields.get("text_field") or "")
  return own_form(open_tokenizer(fields["tokenizer"])) if asks else PLAIN


def with_answers(values: Mapping[str, Any]) -> dict[str, Any]:
  """The values with what fine-tuning sets where they leave it open."""
  given = dict(values)
  given["train"] = {"steps": _NO_LIMIT, **(given.get("train") or {})}
  data = {"packing": "documents", "loss": "answer", "epochs": EPOCHS}
  given["init"] = pinned(given.get("init") or "")
  given["data"] = data_fields({**data, **(given.get("data") or {})}, given["init"])
  if "template" not in given["data"]:
    given["data"]["template"] = own_template(given["data"])
  require(
    given["data"]["loss"] == "answer",
    f"data.loss is {given['data']['loss']!r}; fine-tuning learns answers: set it to answer.",
  )
  return given


def run_sft(
  job: PretrainJob, directory: str | Path, stage: str = "", monitor: MakeMonitor | None = None
) -> tuple[TrainState, Position]:
  """Trains, or goes on training, in the workdir `directory`; see `run.run_job`."""
  tokenizer = open_tokenizer(job.data.tokenizer)

  def step(model: Transformer, tx: optax.GradientTransformation) -> StepFn:
    return make_step(model, tx, PretrainConfig(job.loss_chunk, job.optimizer.ema_decay))

  samples = read_samples(job.data, tokenizer)
  return tune(job, tokenizer, samples, directory, step, stage, monitor, several=True)


def tune(
  job: PretrainJob,
  tokenizer: Tokenizer,
  samples: Sequence[Sample],
  directory: str | Path,
  make: MakeStep,
  stage: str = "",
  monitor: MakeMonitor | None = None,
  several: bool = False,
) -> tuple[TrainState, Position]:
  """`data.epochs` over the samples, or `train.steps` if they are fewer."""
  data = job.data
  source = SampleBatches(samples, data.batch, data.length, tokenizer.pad_id, data.seed, data.epochs)
  batches = iter(grain.MapDataset.source(source).to_iter_dataset())
  steps = min(job.train.steps, -(-len(source) // job.micro_batches))
  job = dataclasses.replace(job, train=dataclasses.replace(job.train, steps=steps))

  def parts(
    model: Transformer, tx: optax.GradientTransformation, position: Position
  ) -> tuple[StepFn, FeedFn]:
    return make(model, tx), make_feed(job, batches, position, model.mesh)

  kept = {"corpus": corpus_fingerprint(data)}
  return run_job(
    job, tokenizer, directory, parts, stage=stage, kept=kept, lora=job.lora, monitor=monitor,
    several=several,
  )  # fmt: skip
