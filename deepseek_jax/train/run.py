"""What is the same in every training job: workdir, start or resume, loop, and letting go."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import optax
from jax.sharding import Mesh

from deepseek_jax.config import ComputeConfig, ConfigError, ModelConfig, require
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.hosts import group, heartbeat
from deepseek_jax.model.adapters import LoRAConfig
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.sharding import MeshConfig, make_mesh
from deepseek_jax.train.adapting import begin_adapting
from deepseek_jax.train.checkpoint import Checkpointer
from deepseek_jax.train.loop import (
  FeedFn,
  LoopConfig,
  Position,
  StepFn,
  Terminated,
  TrainingDiverged,
  train,
)
from deepseek_jax.train.metrics import MetricsLog
from deepseek_jax.train.monitor import Monitor
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.progress import Progress
from deepseek_jax.train.start import begin_training
from deepseek_jax.train.state import TrainState
from deepseek_jax.train.workdir import Workdir


class Job(Protocol):
  """What `run_job` reads of a job; a frozen dataclass, all of which becomes config.json."""

  @property
  def model(self) -> ModelConfig: ...
  @property
  def train(self) -> LoopConfig: ...
  @property
  def optimizer(self) -> OptimizerConfig: ...
  @property
  def compute(self) -> ComputeConfig: ...
  @property
  def mesh(self) -> MeshConfig: ...
  @property
  def seed(self) -> int: ...
  @property
  def init(self) -> str: ...


# The step and the feed of a job, given where it goes on from.
Parts = Callable[[Transformer, optax.GradientTransformation, Position], tuple[StepFn, FeedFn]]
# What looks at a run of this model in this workdir, that has done so many steps.
MakeMonitor = Callable[[Transformer, Path, int], Monitor]


def run_job(
  job: Job,
  tokenizer: Tokenizer,
  directory: str | Path,
  parts: Parts,
  reference: bool = False,
  stage: str = "",
  kept: Mapping[str, Mapping[str, Any]] | None = None,
  reward: bool = False,
  lora: LoRAConfig | None = None,
  monitor: MakeMonitor | None = None,
  several: bool = False,
) -> tuple[TrainState, Position]:
  """Trains, or goes on training, in the workdir `directory`; `stage` prefixes lines of progress.

  `kept` are the fingerprints of what it learns from, by what that is (see `Workdir.keep`).
  `reward` gives the weights a reward head. With `lora` adapters of `job.init` are trained; then
  there is no average, and the base is the reference. `monitor` makes what looks at the run
  meanwhile. `several` says that the job runs over several processes too.

  Raises:
    ConfigError: the input is bad, or the directory is another run's.
    TrainingDiverged, Terminated: see `loop.train`.
  """
  require(
    tokenizer.vocab_size <= job.model.vocab,
    f"model.vocab is {job.model.vocab}, but the tokenizer has {tokenizer.vocab_size} ids.",
  )
  require(
    several or not group.several(),
    f"{type(job).__name__} runs in one process; leave --coordinator out.",
  )
  require(
    lora is None or not group.several(),
    "lora trains adapters in one process; leave --coordinator out, or set config.lora to None.",
  )
  mesh = make_mesh(job.mesh) if job.mesh.devices > 1 or group.several() else None
  with Workdir(directory, job) as workdir:
    for what, fingerprint in (kept or {}).items():
      if fingerprint:
        workdir.keep(what, fingerprint)
    return _run(job, tokenizer, workdir, mesh, parts, reference, stage, reward, lora, monitor)


def _run(
  job: Job,
  tokenizer: Tokenizer,
  workdir: Workdir,
  mesh: Mesh | None,
  parts: Parts,
  reference: bool,
  stage: str,
  reward: bool,
  lora: LoRAConfig | None,
  monitor: MakeMonitor | None,
) -> tuple[TrainState, Position]:
  """Trains in a workdir that is ours."""
  group.from_first(lambda: tokenizer.save(workdir.tokenizer))
  model = Transformer(job.model, job.compute, mesh)
  tx = make_optimizer(job.optimizer)
  checkpointer = Checkpointer(workdir.checkpoints, job.train.keep)
  log = MetricsLog(workdir.path)
  try:
    average = job.optimizer.ema_decay is not None
    common = (model, tx, checkpointer, log, job.seed, job.init)
    if lora is not None:
      state, position = begin_adapting(*common, lora)
    else:
      state, position = begin_training(*common, ema=average, reference=reference, reward=reward)
    step, feed = parts(model, tx, position)
    progress = Progress(job.train.steps, job.train.progress_seconds, stage)
    with _watched(monitor, model, workdir, position.step) as watching:
      state, position = train(
        state, position, step, feed, job.train, checkpointer, log,
        workdir.profile if group.first() else None, progress, watching,
      )  # fmt: skip
      if watching is not None:
        watching.end(position.step, state.weights)
    return state, position
  finally:
    log.close()
    checkpointer.close()


@contextmanager
def _watched(
  make: MakeMonitor | None, model: Transformer, workdir: Workdir, step: int
) -> Iterator[Monitor | None]:
  """The monitor of a run, if it has one, closed with whatever ends the run."""
  if make is None:
    yield None
    return
  monitor = make(model, workdir.path, step)
  try:
    yield monitor
  except BaseException as error:
    if isinstance(error, (ConfigError, Terminated, TrainingDiverged)):
      heartbeat.tell(str(error))  # before a page is drawn
    monitor.close(error)
    raise
  monitor.close(None)
