"""One update of the policy from sampled sequences: the step that every RL stage shares.

Coefficients, the number of micro-batches included, are traced; see `policy.py` for the objective.
Nothing of the model is switched off while it is reinforced:
  - the router bias goes on moving with the loads, and the balance loss may stay on;
  - the MTP modules learn to predict the tokens sampled, so that they remain the policy's drafts,
    but only they learn from it: the gradient stops at the main model, the embedding and the head,
    which would otherwise be trained to imitate wrong answers as well as right ones.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from deepseek_jax.config import require
from deepseek_jax.model.adapters import trained, with_trained
from deepseek_jax.model.transformer import Output, Transformer, forward, head_DV, mtp_hidden
from deepseek_jax.sharding import flat, unflat
from deepseek_jax.train.losses import cross_entropy, shift_targets, token_logprobs
from deepseek_jax.train.policy import PolicyKnobs, objective
from deepseek_jax.train.state import (
  Metrics,
  TrainState,
  apply_gradients,
  compile_step,
  selects_by_bias,
)
from deepseek_jax.types import Batch, Params, RolloutBatch, Routing, Weights


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
  """What the compiled step depends on."""

  loss_chunk: int = 1024  # rows of logits that exist at a time on a device

  def __post_init__(self) -> None:
    require(self.loss_chunk > 0, f"grpo.loss_chunk is {self.loss_chunk}; it must be positive.")


@flax.struct.dataclass
class GRPOKnobs:
  """Traced scalars of an update."""

  policy: PolicyKnobs
  learning_rate: Any
  micro_batches: Any  # of those in the batch; the rest is not computed
  bias_speed: Any = 0.0
  mtp_weight: Any = 0.0
  balance_weight: Any = 0.0


Step = Callable[[TrainState, RolloutBatch, GRPOKnobs], tuple[TrainState, Metrics]]
Scorer = Callable[[Weights, Batch, Any], jax.Array]


def make_step(model: Transformer, tx: optax.GradientTransformation, config: GRPOConfig) -> Step:
  """step(state, batch, knobs) -> (state, metrics), compiled; the state is donated.

  Every array of `batch` has a leading axis of micro-batches, whose gradients are summed: weights
  are those of the whole update. Metrics are means over its sampled tokens. `mismatch` is the
  largest difference between a log-probability and the one recorded while sampling, over tokens
  whose experts, as the model that reads t - 1 chose them, are those met while sampling in every
  layer; `experts_differ` is the share of the other tokens. Both say something only while the
  policy is the one that sampled.
  """

  def step(state: TrainState, batch: RolloutBatch, knobs: GRPOKnobs):
    totals = _mtp_totals(model, batch.batch, knobs.micro_batches)
    moving = trained(state.weights.params)

    def loss(params: Params, rollout: RolloutBatch) -> tuple[jax.Array, "_Report"]:
      weights = with_trained(state.weights, params)
      return _loss(model, weights, rollout, knobs, totals, config.loss_chunk)

    def add(i: jax.Array, carry: tuple[Params, _Report]) -> tuple[Params, _Report]:
      rollout = jax.tree.map(lambda x: x[i], batch)
      (_, report), grads = jax.value_and_grad(loss, has_aux=True)(moving, rollout)
      return jax.tree.map(jnp.add, carry[0], grads), _combine(carry[1], report)

    first = jax.tree.map(lambda x: x[0], batch)
    shapes = jax.eval_shape(loss, moving, first)[1]
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (moving, shapes))
    grads, report = jax.lax.fori_loop(0, knobs.micro_batches, add, start)
    load_LE = report.load_LE if selects_by_bias(model.config) else None
    state, metrics = apply_gradients(
      state, grads, load_LE, tx, knobs.learning_rate, knobs.bias_speed
    )
    return state, metrics | _metrics(report)

  return compile_step(step, model.mesh)


def make_scorer(model: Transformer, config: GRPOConfig) -> Scorer:
  """score(weights, batch, micro_batches) -> log-probability of each token as a target, compiled.

  Both arrays have a leading axis of micro-batches; beyond the given number there are zeros.
  """

  def score(weights: Weights, batch: Batch, micro_batches: Any) -> jax.Array:
    def put(i: jax.Array, out: jax.Array) -> jax.Array:
      one = jax.tree.map(lambda x: x[i], batch)
      return out.at[i].set(_score(model, weights, one, config.loss_chunk)[0])

    return jax.lax.fori_loop(0, micro_batches, put, jnp.zeros(batch.tokens_BT.shape, jnp.float32))

  return jax.jit(score)


@flax.struct.dataclass
class _Report:
  """Of a micro-batch: what is added and what is maximised over micro-batches."""

  load_LE: jax.Array
  sums: dict[str, jax.Array]
  maxima: dict[str, jax.Array]


def _combine(a: _Report, b: _Report) -> _Report:
  return _Report(
    a.load_LE + b.load_LE,
    jax.tree.map(jnp.add, a.sums, b.sums),
    jax.tree.map(jnp.maximum, a.maxima, b.maxima),
  )


def _metrics(report: _Report) -> Metrics:
  """The logged scalars of an update."""
  sums = dict(report.sums)
  tokens = sums.pop("tokens")
  compared, differing = sums.pop("compared"), sums.pop("differing")
  whole = {name: sums.pop(name) for name in ("loss", "mtp_ce", "balance")}
  means = {name: x / jnp.maximum(tokens, 1.0) for name, x in sums.items()}
  share = differing / jnp.maximum(compared, 1.0)
  return {**whole, **means, **report.maxima, "experts_differ": share, "tokens": tokens}


def _loss(
  model: Transformer,
  weights: Weights,
  rollout: RolloutBatch,
  knobs: GRPOKnobs,
  totals: jax.Array,
  chunk: int,
) -> tuple[jax.Array, _Report]:
  """A micro-batch's part of the update's loss."""
  logprob_BT, entropy_BT, out = _score(model, weights, rollout.batch, chunk, with_entropy=True)
  assert entropy_BT is not None  # for it was asked for
  loss, sums = objective(logprob_BT, rollout, knobs.policy)
  mtp_ce, routing = _mtp(model, weights, out, rollout.batch, totals, chunk)
  balance = jnp.sum(routing.balance_L) / knobs.micro_batches
  mask_BT = rollout.batch.loss_mask_BT > 0
  mismatch, compared, differing = _mismatch(logprob_BT, out.routing, rollout)
  report = _Report(
    routing.load_LE,
    {
      "loss": loss,
      "mtp_ce": mtp_ce,
      "balance": balance,
      "tokens": sums.tokens,
      "kl": sums.kl,
      "ratio": sums.ratio,
      "clipped_low": sums.clipped_low,
      "clipped_high": sums.clipped_high,
      "entropy": jnp.sum(jnp.where(mask_BT, entropy_BT, 0.0)),
      "compared": compared,
      "differing": differing,
    },
    {"ratio_max": sums.ratio_max, "mismatch": mismatch},
  )
  loss += knobs.mtp_weight * mtp_ce + knobs.balance_weight * balance
  return loss, jax.lax.stop_gradient(report)


def _score(
  model: Transformer, weights: Weights, batch: Batch, chunk: int, with_entropy: bool = False
) -> tuple[jax.Array, jax.Array | None, Output]:
  """Log-probability and entropy of each token as a target [B, T], zero at t = 0.

  Those of tokens outside the loss are zero, too, and cost no logits.
  """
  out = forward(model, weights, batch.tokens_BT, batch.positions_BT, batch.segments_BT)
  targets_BT, weight_BT = shift_targets(batch)
  hidden_ND, targets_N, weight_N = (
    flat(model.mesh, x) for x in (out.hidden_BTD, targets_BT, weight_BT)
  )
  head = head_DV(model, weights)
  logprob_N, entropy_N = token_logprobs(
    hidden_ND, head, targets_N, chunk, with_entropy, wanted_N=weight_N > 0, mesh=model.mesh
  )  # fmt: skip
  logprob_BT = _as_target(unflat(model.mesh, logprob_N, targets_BT))
  if entropy_N is None:
    return logprob_BT, None, out
  return logprob_BT, _as_target(unflat(model.mesh, entropy_N, targets_BT)), out


def _as_target(x_BT: jax.Array) -> jax.Array:
  """Moves what was computed at the input t - 1 to the target t."""
  return jnp.pad(x_BT[:, :-1], ((0, 0), (1, 0)))


def _mismatch(
  logprob_BT: jax.Array, routing: Routing, rollout: RolloutBatch
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Largest difference to sampling where the experts agree; tokens compared, and those differing.

  Tokens whose experts while sampling are unknown are left out.
  """
  known_BT = jnp.all(rollout.experts_LBTA >= 0, axis=(0, 3))
  agree_BT = jnp.all(rollout.experts_LBTA == routing.experts_LBTA, axis=(0, 3))
  compared_BT = (rollout.batch.loss_mask_BT > 0) & _as_target(known_BT)
  agree_BT = compared_BT & _as_target(agree_BT)
  difference_BT = jnp.where(agree_BT, jnp.abs(logprob_BT - rollout.old_logprob_BT), 0.0)
  compared = jnp.sum(compared_BT, dtype=jnp.float32)
  return jnp.max(difference_BT), compared, compared - jnp.sum(agree_BT, dtype=jnp.float32)


def _mtp_totals(model: Transformer, batch: Batch, micro_batches: Any) -> jax.Array:
  """Targets of each MTP depth in the whole update [P]."""
  used_M = jnp.arange(batch.tokens_BT.shape[0]) < micro_batches
  counts = [
    jnp.sum(shift_targets(batch, depth + 1)[1] * used_M[:, None, None])
    for depth in range(model.config.mtp_depth)
  ]
  return jnp.stack(counts) if counts else jnp.zeros([0], jnp.float32)


def _mtp(
  model: Transformer, weights: Weights, out: Output, batch: Batch, totals: jax.Array, chunk: int
) -> tuple[jax.Array, Routing]:
  """The MTP modules' mean cross-entropy on the sampled tokens, and the Routing of all rows."""
  depths = model.config.mtp_depth
  if not depths:
    return jnp.zeros([]), out.routing
  params = {
    name: value if name.startswith("mtp_") else jax.lax.stop_gradient(value)
    for name, value in weights.params.items()
  }
  fixed = Weights(params, weights.router_bias_LE)
  hidden_PBTD, routing = mtp_hidden(
    model,
    fixed,
    jax.lax.stop_gradient(out.hidden_BTD),
    batch.tokens_BT,
    batch.positions_BT,
    batch.segments_BT,
  )
  head = head_DV(model, fixed)
  loss = jnp.zeros([])
  for depth in range(depths):
    targets_BT, weight_BT = shift_targets(batch, depth + 1)
    rows = (flat(model.mesh, x) for x in (hidden_PBTD[depth], targets_BT, weight_BT))
    hidden_ND, targets_N, weight_N = rows
    total = cross_entropy(hidden_ND, head, targets_N, weight_N, chunk, model.mesh)
    loss += total / jnp.maximum(totals[depth], 1.0) / depths
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), out.routing, routing)
  return loss, both
