"""The pre-training job: from its configuration to a trained state in a workdir."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from deepseek_jax.by_name import pinned
from deepseek_jax.config import ComputeConfig, ModelConfig, from_dict, require
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.pipeline import corpus_fingerprint, open_batches
from deepseek_jax.model.adapters import LoRAConfig, check_adapters
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.seeds import check_seed
from deepseek_jax.sharding import MeshConfig, own_rows, shard_batch
from deepseek_jax.train.loop import Feed, FeedFn, LoopConfig, Position, StepFn
from deepseek_jax.train.optimizer import OptimizerConfig
from deepseek_jax.train.periodic_evaluation import PeriodicEvaluation
from deepseek_jax.train.pretrain import PretrainConfig, PretrainKnobs, make_step
from deepseek_jax.train.run import MakeMonitor, run_job
from deepseek_jax.train.schedule import CosineSchedule, Schedule, check_weight, micro_batches
from deepseek_jax.train.start import (
  check_batch,
  open_tokenizer,
  resolve_model,
  resolve_tokenizer,
)
from deepseek_jax.train.state import TrainState
from deepseek_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class PretrainJob:
  """Everything a pre-training run depends on; what config.json holds."""

  model: ModelConfig
  schedule: Schedule
  train: LoopConfig
  data: DataConfig = DataConfig()  # data.batch rows make one micro-batch
  optimizer: OptimizerConfig = OptimizerConfig()
  compute: ComputeConfig = ComputeConfig()
  mesh: MeshConfig = MeshConfig()
  micro_batches: int = 1  # the most in one step
  balance_weight: float = 1e-4  # V3's alpha
  loss_chunk: int = 1024
  evaluation: PeriodicEvaluation = PeriodicEvaluation()
  seed: int = 0
  init: str = ""  # to start from: a workdir, Hugging Face directory, GGUF file or Hub name
  lora: LoRAConfig | None = None  # train adapters of `init`; None trains all weights

  def __post_init__(self) -> None:
    check_seed("seed", self.seed)
    check_weight("balance_weight", self.balance_weight)
    require(self.micro_batches > 0, f"micro_batches is {self.micro_batches}; it must be positive.")
    check_batch(self.data.batch, self.data.length, self.model, self.mesh)
    if self.lora is not None:
      moves = "speed" if isinstance(self.schedule, CosineSchedule) else "bias_speed"
      speed = (f"schedule.{moves}", getattr(self.schedule, moves))
      check_adapters(self.lora, self.model, self.init, speed)
      require(
        self.optimizer.ema_decay is None,
        f"optimizer.ema_decay is {self.optimizer.ema_decay}; adapters keep no average: set None.",
      )


def pretrain_job(values: Mapping[str, Any]) -> PretrainJob:
  """The job of a config's values; those not among them are defaults, or as `init` has them."""
  given, init = dict(values), pinned(values.get("init") or "")
  model = resolve_model(given.pop("model", {}), init)
  given["init"] = init
  given["data"] = data_fields(given.get("data") or {}, init)
  return from_dict(PretrainJob, {**with_still_router(given), "model": model})


def with_still_router(values: Mapping[str, Any]) -> dict[str, Any]:
  """The values, where they train adapters with a router's bias that stands still unless given."""
  given, schedule = dict(values), values.get("schedule")
  names = {field.name for field in dataclasses.fields(CosineSchedule)}
  if given.get("lora") is not None and schedule and names.issuperset(schedule):
    given["schedule"] = {"speed": 0.0, **schedule}
  return given


def data_fields(values: Mapping[str, Any], init: str) -> dict[str, Any]:
  """The fields of `DataConfig`, with the tokenizer of `init` and a dataset's revision."""
  fields = {**values, "tokenizer": resolve_tokenizer(values.get("tokenizer"), init)}
  if values.get("source") == "hf":
    fields["path"] = pinned(values.get("path") or "", "dataset")
  return fields


def run_pretrain(
  job: PretrainJob, directory: str | Path, stage: str = "", monitor: MakeMonitor | None = None
) -> tuple[TrainState, Position]:
  """Trains, or goes on training, in the workdir `directory`; see `run.run_job`."""
  tokenizer = open_tokenizer(job.data.tokenizer)
  batches = open_batches(job.data, tokenizer, rows=own_rows(job.mesh, job.data.batch))

  def parts(
    model: Transformer, tx: optax.GradientTransformation, position: Position
  ) -> tuple[StepFn, FeedFn]:
    step = make_step(model, tx, PretrainConfig(job.loss_chunk, job.optimizer.ema_decay))
    return step, make_feed(job, batches, position, model.mesh)

  kept = {"corpus": corpus_fingerprint(job.data)}
  return run_job(
    job,
    tokenizer,
    directory,
    parts,
    stage=stage,
    kept=kept,
    lora=job.lora,
    monitor=monitor,
    several=True,
  )


def make_feed(
  job: PretrainJob, batches: Any, start: Position, mesh: jax.sharding.Mesh | None
) -> Callable[[Position, TrainState], Feed]:
  """Micro-batches stacked into batches, and the schedule's knobs; continues behind `start`.

  `batches` is the iterator of `data.open_batches`. Where the data ends inside a batch, the step
  has fewer micro-batches.
  """
  if start.data is not None:
    batches.set_state(start.data)

  def feed(position: Position, state: TrainState) -> Feed:
    del state
    now = job.schedule.at(position.step, position.tokens, job.train.steps)
    wanted = micro_batches(now.sequences, job.data.batch, job.micro_batches)
    taken = list(_take(batches, wanted))
    if not taken:
      raise StopIteration
    batch = _stack(taken, job.micro_batches)
    knobs = PretrainKnobs(
      learning_rate=np.float32(now.learning_rate),
      bias_speed=np.float32(now.bias_speed),
      mtp_weight=np.float32(now.mtp_weight),
      balance_weight=np.float32(job.balance_weight),
      micro_batches=np.int32(len(taken)),
    )
    tokens = sum(int((micro.segments_BT > 0).sum()) for micro in taken)
    logged = {"learning_rate": now.learning_rate}
    return Feed(shard_batch(mesh, batch), knobs, tokens, batches.get_state(), logged)

  return feed


def _take(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
  for _, batch in zip(range(count), batches, strict=False):
    yield batch


def _stack(taken: list[Batch], most: int) -> Batch:
  """[M, B, T] of the micro-batches taken; the unused ones up to `most` are padding."""

  def stack(*arrays: np.ndarray) -> np.ndarray:
    out = np.zeros((most, *arrays[0].shape), arrays[0].dtype)
    out[: len(arrays)] = arrays
    return out

  return jax.tree.map(stack, *taken)
