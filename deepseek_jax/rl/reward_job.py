"""The reward model's job: from its configuration to a scorer in a workdir, and its accuracy."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optax

from deepseek_jax.by_name import pinned
from deepseek_jax.config import ComputeConfig, ModelConfig, from_dict, require, to_dict
from deepseek_jax.data.asking import own_form
from deepseek_jax.data.preference_batches import PreferenceBatches
from deepseek_jax.data.preference_config import PreferenceConfig
from deepseek_jax.data.preferences import Preference, preference_fingerprint, read_preferences
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.evaluate.figures import Figure, table
from deepseek_jax.evaluate.job_page import Job, write_page
from deepseek_jax.evaluate.monitor import JobMonitor
from deepseek_jax.evaluate.results import write_results
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.paths import local_path
from deepseek_jax.rl.reward_accuracy import accuracy_figures, shares
from deepseek_jax.rl.reward_model import RewardModel
from deepseek_jax.seeds import check_seed
from deepseek_jax.sharding import MeshConfig, shard_batch
from deepseek_jax.train.loop import Feed, FeedFn, LoopConfig, Position, StepFn
from deepseek_jax.train.optimizer import OptimizerConfig
from deepseek_jax.train.reward_model import RewardKnobs, make_step
from deepseek_jax.train.run import run_job
from deepseek_jax.train.schedule import check_weight, warmup_cosine
from deepseek_jax.train.start import (
  check_batch,
  open_tokenizer,
  resolve_model,
  resolve_tokenizer,
)
from deepseek_jax.train.state import Metrics, TrainState

_NO_LIMIT = 2**31  # steps: the epochs end a run that names none
STAGE = "reward_model"


@dataclasses.dataclass(frozen=True)
class RewardEvaluation:
  """When the accuracy on what is held out is measured, beside at the end."""

  every: int = 0  # steps; 0: at the end only

  def __post_init__(self) -> None:
    require(self.every >= 0, f"evaluation.every is {self.every}; it must not be negative.")


@dataclasses.dataclass(frozen=True)
class RewardModelJob:
  """Everything a reward model's training depends on; what config.json holds.

  The defaults for rate and epochs are R1's (2501.12948). Weights do not decay: what no reward uses,
  the output head and the MTP modules, would only shrink.
  """

  model: ModelConfig
  train: LoopConfig
  data: PreferenceConfig = PreferenceConfig()
  peak: float = 6e-6  # learning rate
  final: float = 0.1  # of the peak, at the last step
  warmup: int = 10  # steps
  bias_speed: float = 1e-3
  balance_weight: float = 1e-4
  evaluation: RewardEvaluation = RewardEvaluation()
  optimizer: OptimizerConfig = OptimizerConfig(weight_decay=0.0)
  compute: ComputeConfig = ComputeConfig()
  mesh: MeshConfig = MeshConfig()
  seed: int = 0
  init: str = ""  # to start from: a workdir, Hugging Face directory, GGUF file or Hub name

  def __post_init__(self) -> None:
    check_seed("seed", self.seed)
    for name in ("peak", "final", "warmup", "bias_speed", "balance_weight"):
      check_weight(name, getattr(self, name))
    check_batch(self.data.batch, self.data.length, self.model, self.mesh)
    every, logged = self.evaluation.every, self.train.log_every
    require(
      every % logged == 0,
      f"evaluation.every is {every}; it must be a multiple of train.log_every, {logged}.",
    )
    require(
      every == 0 or self.data.heldout > 0,
      f"evaluation.every is {every}, but data.heldout is 0; hold something out.",
    )


def reward_model_job(values: Mapping[str, Any]) -> RewardModelJob:
  """The job of a config's values; those not among them are defaults, or as `init` has them."""
  given, init = dict(values), pinned(values.get("init") or "")
  model = resolve_model(given.pop("model", {}), init)
  given["init"] = init
  data = dict(given.get("data") or {})
  data["tokenizer"] = resolve_tokenizer(data.get("tokenizer"), init)
  if data.get("source") == "hf":
    data["path"] = pinned(data.get("path") or "", "dataset")
  if "template" not in data:
    data["template"] = own_form(open_tokenizer(data["tokenizer"]))
  given["data"] = data
  given["train"] = {"steps": _NO_LIMIT, **(given.get("train") or {})}
  given["optimizer"] = {"weight_decay": 0.0, **(given.get("optimizer") or {})}
  return from_dict(RewardModelJob, {**given, "model": model})


def run_reward_model(job: RewardModelJob, directory: str | Path) -> tuple[TrainState, list[Figure]]:
  """Trains, or goes on training, in the workdir `directory`, and measures what came of it.

  The accuracy on what was held out, if anything was, goes into results.json and report.html there;
  see also `train.run.run_job`.
  """
  began = time.monotonic()
  tokenizer = open_tokenizer(job.data.tokenizer)
  learnt, held = read_preferences(job.data, tokenizer)
  data = job.data
  batches = PreferenceBatches(
    learnt, data.batch, data.length, tokenizer.pad_id, data.seed, data.epochs
  )
  steps = min(job.train.steps, len(batches))
  job = dataclasses.replace(job, train=dataclasses.replace(job.train, steps=steps))
  models: list[Transformer] = []

  def parts(
    model: Transformer, tx: optax.GradientTransformation, position: Position
  ) -> tuple[StepFn, FeedFn]:
    del position  # all that a step depends on is its number
    models.append(model)
    step = _telling(make_step(model, tx, job.optimizer.ema_decay), learnt)
    return step, _make_feed(job, batches, held, model, tokenizer)

  kept = {"corpus": preference_fingerprint(data)}
  page = Job("Reward model", {"data": to_dict(job.data), "init": job.init or "random weights"})

  def monitor(model: Transformer, folder: Path, step: int) -> JobMonitor:
    del model
    return JobMonitor(folder, page, step)

  state, position = run_job(
    job, tokenizer, directory, parts, kept=kept, reward=True, monitor=monitor
  )
  scorer = RewardModel(models[0], state.weights, tokenizer, data.template)
  figures = accuracy_figures(scorer.score_tokens, held, _benchmark(data), STAGE, job.seed)
  _write(local_path(directory), page, position.step, figures, time.monotonic() - began)
  return state, figures


def _telling(step: StepFn, learnt: Sequence[Preference]) -> StepFn:
  """The step without metrics of pairs where there are none to learn from, likewise of labels."""
  dropped: tuple[str, ...] = ()
  if all(one.label is not None for one in learnt):
    dropped = ("pairs", "pair_accuracy", "margin")
  elif all(one.label is None for one in learnt):
    dropped = ("labels", "label_accuracy")

  def telling(state: TrainState, batch: Any, knobs: Any) -> tuple[TrainState, Metrics]:
    state, metrics = step(state, batch, knobs)
    return state, {name: value for name, value in metrics.items() if name not in dropped}

  return telling


def _make_feed(
  job: RewardModelJob,
  batches: PreferenceBatches,
  held: Sequence[Preference],
  model: Transformer,
  tokenizer: Tokenizer,
) -> FeedFn:
  """The batch of each step, its knobs, and every so often the accuracy before it."""

  def feed(position: Position, state: TrainState) -> Feed:
    if position.step >= len(batches):
      raise StopIteration
    batch = batches[position.step]
    rate = warmup_cosine(position.step, job.train.steps, job.peak, job.warmup, job.final)
    knobs = RewardKnobs(
      learning_rate=np.float32(rate),
      bias_speed=np.float32(job.bias_speed),
      balance_weight=np.float32(job.balance_weight),
    )
    logged = {"learning_rate": rate}
    every = job.evaluation.every
    if held and every and (position.step + 1) % every == 0:
      scorer = RewardModel(model, state.weights, tokenizer, job.data.template)
      measured = shares(scorer.score_tokens, held)
      logged |= {f"heldout_{name}": float(np.mean(each)) for name, each in measured.items()}
    tokens = int((batch.segments_BT > 0).sum())
    return Feed(shard_batch(model.mesh, batch), knobs, tokens, metrics=logged)

  return feed


def _benchmark(data: PreferenceConfig) -> str:
  """What the figures are called that were measured on what is held out."""
  return f"{Path(data.path).name or data.task} held out"


def _write(folder: Path, page: Job, step: int, figures: Sequence[Figure], seconds: float) -> None:
  """Writes and prints the figures."""
  if not figures:
    print("nothing is held out (data.heldout), so that no accuracy is measured.", flush=True)
    return
  write_page(folder, page, f"ended after step {step}", figures)
  write_results(folder / "results.json", figures, seconds)
  print(table(figures), flush=True)
