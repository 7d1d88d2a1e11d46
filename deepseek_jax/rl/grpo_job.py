"""The GRPO job: from its configuration to a reinforced model in a workdir."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optax

from deepseek_jax.by_name import pinned
from deepseek_jax.config import ComputeConfig, ModelConfig, from_dict, require
from deepseek_jax.data.asking import own_form
from deepseek_jax.data.sources import fingerprint
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import Engine, SlotEngine
from deepseek_jax.evaluate.benchmark import open_task
from deepseek_jax.evaluate.evaluation import content_of
from deepseek_jax.evaluate.file_benchmark import FileBenchmark
from deepseek_jax.evaluate.held_out import EvaluationLog, HeldOut, open_held_out
from deepseek_jax.evaluate.job_page import Job
from deepseek_jax.evaluate.monitor import JobMonitor
from deepseek_jax.model.adapters import LoRAConfig, check_adapters, told
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.rl.learned_reward import open_judge, require_tasks
from deepseek_jax.rl.rewards import Judge, Transform
from deepseek_jax.rl.rollout import Rollout
from deepseek_jax.rl.samples import SampleLog, SamplesConfig
from deepseek_jax.rl.trainer import Reinforcement, RLConfig
from deepseek_jax.seeds import check_seed
from deepseek_jax.sharding import MeshConfig
from deepseek_jax.tasks.environment import check_turns
from deepseek_jax.tasks.task import Task
from deepseek_jax.train import grpo
from deepseek_jax.train.loop import FeedFn, LoopConfig, Position, StepFn, TrainingDiverged
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.optimizer import OptimizerConfig
from deepseek_jax.train.periodic_evaluation import PeriodicEvaluation
from deepseek_jax.train.run import run_job
from deepseek_jax.train.start import (
  open_tokenizer,
  resolve_model,
  resolve_tokenizer,
)
from deepseek_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class GRPOJob:
  """Everything a GRPO run depends on; what config.json holds. Its steps are iterations."""

  model: ModelConfig
  train: LoopConfig
  rl: RLConfig = RLConfig()
  samples: SamplesConfig = SamplesConfig()
  task: str = "mini"  # see evaluate.benchmark.open_task
  tokenizer: str = "word"  # word | byte | a directory
  optimizer: OptimizerConfig = OptimizerConfig(weight_decay=0.0)
  compute: ComputeConfig = ComputeConfig()
  mesh: MeshConfig = MeshConfig()
  engine_batch: int = 256  # rows sampled at a time
  loss_chunk: int = 1024
  evaluation: PeriodicEvaluation = PeriodicEvaluation()
  seed: int = 0
  init: str = ""  # to start from: a workdir, Hugging Face directory, GGUF file or Hub name
  lora: LoRAConfig | None = None  # train adapters of `init`, their reference; None: all weights

  def __post_init__(self) -> None:
    check_seed("seed", self.seed)
    width = self.rl.rollout.width
    require(
      width <= self.model.max_context,
      f"rl.rollout.width is {width}; it must not exceed model.max_context, "
      f"{self.model.max_context}.",
    )
    self.mesh.check_rows("rl.rollout.rows", self.rl.rollout.rows)
    require(
      self.optimizer.ema_decay is None,
      f"optimizer.ema_decay is {self.optimizer.ema_decay}; reinforcement keeps no average.",
    )
    if self.lora is not None:
      check_adapters(self.lora, self.model, self.init, ("rl.bias_speed", self.rl.bias_speed))
      require(
        self.rl.reference_every == 0,
        f"rl.reference_every is {self.rl.reference_every}, but the reference of adapters is their "
        "base, which stays: set it to 0.",
      )


def grpo_job(values: Mapping[str, Any]) -> GRPOJob:
  """The job of a config's values; those not among them are defaults, or as `init` has them."""
  given, init = dict(values), pinned(values.get("init") or "")
  model = resolve_model(given.pop("model", {}), init)
  given["init"] = init
  given["tokenizer"] = resolve_tokenizer(given.get("tokenizer"), init)
  rl = given.get("rl") or {}
  rollout = dict(rl.get("rollout") or {})
  if "template" not in rollout:
    rollout["template"] = own_form(open_tokenizer(given["tokenizer"]))
  still = {} if given.get("lora") is None else {"bias_speed": 0.0}  # as the rest of the base
  given["rl"] = {**still, **rl, "rollout": rollout}
  return from_dict(GRPOJob, {"optimizer": {"weight_decay": 0.0}, **given, "model": model})


def run_grpo(
  job: GRPOJob, directory: str | Path, stage: str = "", transform: Transform | None = None
) -> tuple[TrainState, Position]:
  """Reinforces, or goes on reinforcing, in the workdir `directory`; see `train.run.run_job`."""
  tokenizer = open_tokenizer(job.tokenizer)
  task, judge = open_task(job.task), open_judge(job.rl.rollout)  # before the workdir is claimed
  check_turns(task, job.rl.rollout.turns, "rl.rollout.turns")
  held_out = _held_out(job, task, tokenizer)
  log = SampleLog(directory, job.samples)
  engines: list[Engine] = []  # one, shared by rollouts and evaluations
  require_tasks(job.rl.rollout.reward.learned, task)

  def parts(
    model: Transformer, tx: optax.GradientTransformation, position: Position
  ) -> tuple[StepFn, FeedFn]:
    log.resume(position.step)

    def observe(iteration: int, rollout: Rollout) -> None:
      step = iteration + 1
      log.observe(step, rollout, step % job.train.log_every == 0 or step == job.train.steps)

    stage = reinforcement(job, model, tx, task, tokenizer, judge)
    engines.append(stage.engine)
    stage = dataclasses.replace(stage, transform=transform, observe=observe)
    return stage.step, stage.feed

  def monitor(model: Transformer, folder: Path, step: int) -> GRPOMonitor:
    batch, evaluations = job.evaluation.batch, None
    if held_out is not None:
      engine = SlotEngine(model, batch) if batch else engines[0]
      evaluations = EvaluationLog(folder, held_out, engine, step)
    return GRPOMonitor(folder, Job("Reinforcement", _facts(job)), step, evaluations, log)

  reference = job.rl.kl_weight > 0
  kept = {"corpus": _fingerprint(task)}
  if judge is not None:
    kept["reward model"] = {job.rl.rollout.reward.learned.model: judge.model.digest}
  return run_job(
    job, tokenizer, directory, parts, reference,
    stage=stage, kept=kept, lora=job.lora, monitor=monitor, several=True,
  )  # fmt: skip


class GRPOMonitor(JobMonitor):
  """Also keeps what was said where a run stops that nobody had logged."""

  def __init__(
    self,
    folder: Path,
    job: Job,
    step: int,
    evaluations: EvaluationLog | None,
    samples: SampleLog,
  ):
    super().__init__(folder, job, step, evaluations)
    self._samples = samples

  def close(self, error: BaseException | None) -> None:
    """As `JobMonitor.close`, with the samples that a run diverged on."""
    metrics = read_metrics(self.folder / "metrics.jsonl")
    if isinstance(error, TrainingDiverged) and metrics:
      self._samples.flush(metrics[-1]["step"])
    super().close(error)


def _held_out(job: GRPOJob, task: Task, tokenizer: Tokenizer) -> HeldOut | None:
  """What is measured as the job goes on: asked as its rollouts ask, as long as their answers."""
  rollout, config = job.rl.rollout, job.evaluation
  config = dataclasses.replace(config, max_new=config.max_new or rollout.max_new)
  context, turns = job.model.max_context, 1 if config.benchmark else rollout.turns
  return open_held_out(config, task, tokenizer, rollout.template, context, job.seed, turns)


def _facts(job: GRPOJob) -> dict[str, Any]:
  """What the page says of the job."""
  rollout = job.rl.rollout
  weights = ", ".join(f"{weight:g} {name}" for name, weight in rollout.reward.weights().items())
  return {
    "task": job.task,
    "start": job.init or "random weights",
    "trained": told(job.lora),
    "iteration": f"{rollout.prompts} prompts x {rollout.group} samples of {rollout.max_new} tokens",
    "reward": weights,
    "cut off": f"{rollout.advantage.truncated} (advantage.truncated)",
    "seed": job.seed,
  }


def _fingerprint(task: Task) -> dict[str, Any]:
  """Of the file that a task's problems are in, by which a change is noticed; else nothing."""
  if isinstance(task, FileBenchmark):
    return {task.name: content_of(task)}
  file = getattr(task, "file", None)
  return fingerprint([file], file) if isinstance(file, Path) else {}


def reinforcement(
  job: GRPOJob,
  model: Transformer,
  tx: optax.GradientTransformation,
  task: Task,
  tokenizer: Tokenizer,
  judge: Judge | None,
) -> Reinforcement:
  """The stage that a job is, whose feed and step the loop calls; `judge` is `open_judge`'s."""
  compiled = grpo.GRPOConfig(job.loss_chunk)
  return Reinforcement(
    update=grpo.make_step(model, tx, compiled),
    score=grpo.make_scorer(model, compiled),
    engine=SlotEngine(model, job.engine_batch),
    task=task,
    tokenizer=tokenizer,
    config=job.rl,
    iterations=job.train.steps,
    seed=job.seed,
    mesh=model.mesh,
    judge=judge,
  )
