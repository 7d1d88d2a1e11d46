"""Reinforcement by GRPO as a job of the training loop: a step of it is one rollout, in two halves.

`feed` samples with the weights of the state; `step` makes the updates. The whole iteration depends
on (seed, iteration) and the state alone, and checkpoints fall between iterations, so that one that
was cut short is redone as it was.

Where `correction` or `largest_gap` asks for it, all samples are scored before the first update by
the weights that drew them: `mismatch` is then the largest difference to what was recorded while
sampling over all tokens of the iteration, whatever experts they met; `mismatch_mean` its mean and
`mismatch_kl` the k3 estimate of the divergence. Otherwise it is what the first update reports.
"""

import dataclasses
import functools
import math
import operator
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from deepseek_jax.config import require
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import Engine
from deepseek_jax.model.adapters import base_of, is_adapted
from deepseek_jax.rl.rewards import Judge, Transform
from deepseek_jax.rl.rollout import Rollout, RolloutConfig, Update, roll_out
from deepseek_jax.sharding import shard_batch
from deepseek_jax.tasks.task import Task
from deepseek_jax.train import grpo
from deepseek_jax.train.correction import LEVELS, Gap, correct
from deepseek_jax.train.loop import Feed, Limit, Position
from deepseek_jax.train.policy import PolicyKnobs, RatioLevel
from deepseek_jax.train.schedule import check_weight, warmup_cosine
from deepseek_jax.train.state import Metrics, TrainState, init_state
from deepseek_jax.types import Weights

_LEVELS = {level.name.lower(): level for level in RatioLevel}


@dataclasses.dataclass(frozen=True)
class RLConfig:
  """A stage of reinforcement. The defaults suit the minis; R1's values are in configs/."""

  rollout: RolloutConfig = RolloutConfig()
  epochs: int = 1  # passes over a rollout
  ratio_level: str = "token"  # token | sequence_sum | sequence_mean: see train/policy.py
  clip_low: float = 0.2
  clip_high: float = 0.28
  correction: str = "none"  # of the sampler's numerics: none | token | sequence
  correction_cap: float = 2.0  # largest importance weight: see train/correction.py
  largest_gap: float = 0.0  # of the two's log-probabilities; beyond it the run ends. 0: any
  kl: str = "k3"  # the estimator: k1 | k2 | k3
  kl_weight: float = 0.0  # 0 keeps no reference; that of adapters is their base, and no copy
  reference_every: int = 0  # updates after which the policy becomes the reference; 0: never
  peak: float = 3e-4  # learning rate
  final: float = 0.2  # of the peak, at the last iteration
  warmup: int = 0  # iterations
  bias_speed: float = 1e-3
  mtp_weight: float = 0.1
  balance_weight: float = 0.0

  def __post_init__(self) -> None:
    require(
      self.ratio_level in _LEVELS,
      f"rl.ratio_level is {self.ratio_level!r}; use one of {', '.join(_LEVELS)}.",
    )
    require(
      self.correction in ("none", *LEVELS),
      f"rl.correction is {self.correction!r}; use one of none, {', '.join(LEVELS)}.",
    )
    require(
      1 <= self.correction_cap < math.inf,
      f"rl.correction_cap is {self.correction_cap}; it must be finite and at least 1, the weight "
      "of a token that both give one probability.",
    )
    require(self.kl in ("k1", "k2", "k3"), f"rl.kl is {self.kl!r}; use k1, k2 or k3.")
    require(self.epochs > 0, f"rl.epochs is {self.epochs}; it must be positive.")
    for name in ("clip_low", "clip_high", "reference_every", "warmup"):
      value = getattr(self, name)
      require(value >= 0, f"rl.{name} is {value}; it must not be negative.")
    for name in (
      "kl_weight",
      "peak",
      "final",
      "bias_speed",
      "mtp_weight",
      "balance_weight",
      "largest_gap",
    ):
      check_weight(f"rl.{name}", getattr(self, name))
    require(
      self.kl_weight > 0 or self.reference_every == 0,
      "rl.reference_every resets a reference, but rl.kl_weight is 0 and keeps none; set one.",
    )

  @property
  def rescores(self) -> bool:
    """Whether samples are scored again before the first update."""
    return self.correction != "none" or self.largest_gap > 0

  @property
  def updates(self) -> int:
    """Updates of one iteration, if no part of its rollout is empty."""
    return self.rollout.updates * self.epochs

  def policy_knobs(self) -> PolicyKnobs:
    """The coefficients of the objective."""
    knobs = PolicyKnobs(
      clip_low=self.clip_low, clip_high=self.clip_high, ratio_level=_LEVELS[self.ratio_level]
    )
    return dataclasses.replace(knobs, **{f"kl_{self.kl}": self.kl_weight})

  def resets_reference(self, iteration: int) -> bool:
    """Whether `reference_every` scheduled updates are full just before `iteration`."""
    if not self.reference_every or iteration == 0:
      return False
    before, now = ((i * self.updates) // self.reference_every for i in (iteration - 1, iteration))
    return now > before


def start(weights: Weights, tx: optax.GradientTransformation, config: RLConfig) -> TrainState:
  """A fresh optimiser over `weights`, which are also the first reference where KL is on."""
  reference = jax.tree.map(jnp.copy, weights) if config.kl_weight else None
  return dataclasses.replace(init_state(weights, tx), reference=reference)


@dataclasses.dataclass(frozen=True)
class Reinforcement:
  """A stage: `feed` and `step` are those of `train.loop.train`, whose steps are iterations.

  `update` and `score` (`grpo.make_step`, `grpo.make_scorer`) are given, so that stages that differ
  in coefficients share what is compiled. `transform` may alter rewards (see `rewards.permuted`);
  `observe` is shown the rollout of each iteration; `judge` is the reward model of
  `rollout.reward.learned` (see `learned_reward.open_judge`).
  """

  update: grpo.Step
  score: grpo.Scorer
  engine: Engine
  task: Task
  tokenizer: Tokenizer
  config: RLConfig
  iterations: int
  seed: int
  mesh: jax.sharding.Mesh | None = None
  transform: Transform | None = None
  observe: Callable[[int, Rollout], None] | None = None
  judge: Judge | None = None

  def feed(self, position: Position, state: TrainState) -> Feed:
    """Samples the rollout of the next iteration."""
    began, iteration = time.monotonic(), position.step
    rollout = roll_out(
      self.engine,
      state.weights,
      self.task,
      self.tokenizer,
      self.config.rollout,
      self.seed,
      iteration,
      self.transform,
      self.judge,
    )
    if self.observe is not None:
      self.observe(iteration, rollout)
    seconds = round(time.monotonic() - began, 4)
    c = self.config
    return Feed(
      batch=(iteration, rollout),
      knobs=grpo.GRPOKnobs(
        policy=c.policy_knobs(),
        learning_rate=warmup_cosine(iteration, self.iterations, c.peak, c.warmup, c.final),
        micro_batches=0,
        bias_speed=c.bias_speed,
        mtp_weight=c.mtp_weight,
        balance_weight=c.balance_weight,
      ),
      tokens=int(rollout.report["sampled_tokens"]),
      metrics={**rollout.report, "sampling_seconds": seconds},
      limits={"mismatch": Limit(c.largest_gap, "rl.largest_gap")} if c.largest_gap else {},
    )

  def step(
    self, state: TrainState, batch: tuple[int, Rollout], knobs: grpo.GRPOKnobs
  ) -> tuple[TrainState, Metrics]:
    """All updates of an iteration, and their metrics (see `_summary`)."""
    iteration, rollout = batch
    if self.config.resets_reference(iteration):
      state = dataclasses.replace(state, reference=jax.tree.map(jnp.copy, state.weights))
    reference = self._reference(state)
    updates = [self._placed(update, reference) for update in rollout.updates]
    gaps: list[Gap] = []
    if self.config.rescores:
      compared = [self._compared(update, state) for update in updates]
      updates, gaps = [update for update, _ in compared], [gap for _, gap in compared]
    rows: list[Metrics] = []
    for update in updates * self.config.epochs:
      knobs = dataclasses.replace(knobs, micro_batches=update.micro_batches)
      state, metrics = self.update(state, update.batch, knobs)
      rows.append(metrics)
    summary = _summary(rows, with_kl=reference is not None)
    return state, summary | _mismatch(gaps, self.config.correction != "none")

  def _reference(self, state: TrainState) -> Weights | None:
    """What KL is measured against, if it is; that of adapters is their base."""
    if self.config.kl_weight and is_adapted(state.weights.params):
      return base_of(state.weights)
    return state.reference

  def _placed(self, update: Update, reference: Weights | None) -> Update:
    """The update on its devices, with reference log-probabilities if there is a reference."""
    batch = shard_batch(self.mesh, update.batch)
    if reference is not None:
      logprob_MBT = self.score(reference, batch.batch, update.micro_batches)
      batch = dataclasses.replace(
        batch, ref_logprob_BT=logprob_MBT * (batch.batch.loss_mask_BT > 0)
      )
    return Update(batch, update.micro_batches)

  def _compared(self, update: Update, state: TrainState) -> tuple[Update, Gap]:
    """The update, corrected if it shall be, and how far sampler and trainer are apart in it."""
    logprob_MBT = self.score(state.weights, update.batch.batch, update.micro_batches)
    c = self.config
    level = LEVELS.get(c.correction, RatioLevel.TOKEN)
    batch, gap = correct(update.batch, logprob_MBT, level, c.correction_cap)
    return Update(batch, update.micro_batches) if c.correction != "none" else update, gap


def _summary(rows: list[Metrics], with_kl: bool) -> dict[str, Any]:
  """Means over an iteration's updates, but for maxima; mismatch is that of the first.

  Later updates compare a policy that has moved already with the one that sampled. Two at a time,
  so that an iteration with fewer updates than usual compiles nothing.
  """
  summary: dict[str, Any] = {"updates": float(len(rows))}
  if not rows:
    return summary
  for name in rows[0]:
    values = [row[name] for row in rows]
    if name in ("mismatch", "experts_differ"):
      summary[name] = values[0]
    elif name == "ratio_max":
      summary[name] = functools.reduce(jnp.maximum, values)
    elif name == "tokens":
      summary["trained_tokens"] = functools.reduce(jnp.add, values)
    elif name != "kl" or with_kl:
      summary[name] = functools.reduce(jnp.add, values) / len(values)
  return summary


def _mismatch(gaps: list[Gap], capped: bool) -> Metrics:
  """The gap over all updates' tokens, if they were scored again; see the head of this file."""
  if not gaps:
    return {}
  gap = functools.reduce(operator.add, gaps)
  tokens = jnp.maximum(gap.tokens, 1.0)
  found = {"mismatch": gap.largest, "mismatch_mean": gap.absolute / tokens}
  found["mismatch_kl"] = gap.kl / tokens
  return found | ({"capped": gap.capped / tokens} if capped else {})
