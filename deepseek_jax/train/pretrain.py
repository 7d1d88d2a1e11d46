"""The pre-training step of V3 (2412.19437, sections 2.2, 2.1.2 and 4.2).

loss = CE + (mtp_weight / P) * sum_k CE_k + balance_weight * sum_l balance_l, where CE is the mean
over the global batch's targets, CE_k that of the k-th MTP module over its own targets, and the
balance loss is summed over expert layers (MTP modules included) and averaged over sequences.

A batch has a leading axis M of micro-batches of one fixed shape, of which the first
`knobs.micro_batches` are used: V3's growing batch without recompiling. Their gradients are
accumulated in float32 and are those of one large batch exactly, for each micro-batch is divided by
the whole batch's number of targets; so are the loads, before the bias takes their sign.
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
from deepseek_jax.model.transformer import Transformer, forward, head_DV, mtp_hidden
from deepseek_jax.sharding import flat
from deepseek_jax.train.losses import cross_entropy, shift_targets
from deepseek_jax.train.state import (
  Metrics,
  TrainState,
  apply_gradients,
  compile_step,
  selects_by_bias,
)
from deepseek_jax.types import Batch, Weights


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
  """What is compiled into the step; everything that changes during a run is a knob."""

  loss_chunk: int = 1024  # rows of logits that exist at a time on a device
  ema_decay: float | None = None  # of the moving average, if the state keeps one

  def __post_init__(self) -> None:
    require(self.loss_chunk > 0, f"loss_chunk is {self.loss_chunk}; it must be positive.")


@flax.struct.dataclass
class PretrainKnobs:
  """Traced scalars."""

  learning_rate: Any
  bias_speed: Any = 0.0
  mtp_weight: Any = 0.0
  balance_weight: Any = 1e-4
  ce_weight: Any = 1.0  # distillation on logits lowers it
  micro_batches: Any = 1  # int: how many of the batch's M to use


@flax.struct.dataclass
class _Sums:
  """What a micro-batch adds up to."""

  loss: jax.Array
  ce: jax.Array  # its part of the global mean
  mtp_ce: jax.Array  # likewise, averaged over MTP modules
  balance: jax.Array
  further: jax.Array  # what the caller of `gradients` added
  load_LE: jax.Array


Step = Callable[[TrainState, Batch, PretrainKnobs], tuple[TrainState, Metrics]]
# (hidden_BTD, head_DV, micro-batch, targets of the whole batch) -> its part of a further loss
FurtherLoss = Callable[[jax.Array, jax.Array, Batch, jax.Array], jax.Array]


def make_step(
  model: Transformer, tx: optax.GradientTransformation, config: PretrainConfig | None = None
) -> Step:
  """step(state, batch_MBT, knobs) -> (state, metrics), compiled, with the state donated.

  Metrics: loss, ce (nats per token), mtp_ce, balance (before its weight), grad_norm,
  max_violation, and tokens, the targets that counted.
  """
  config = config or PretrainConfig()

  def step(state: TrainState, batch: Batch, knobs: PretrainKnobs) -> tuple[TrainState, Metrics]:
    grads, sums, targets = gradients(model, state.weights, batch, knobs, config.loss_chunk)
    load_LE = sums.load_LE if selects_by_bias(model.config) else None
    state, metrics = apply_gradients(
      state, grads, load_LE, tx, knobs.learning_rate, knobs.bias_speed, config.ema_decay
    )
    named = {name: getattr(sums, name) for name in ("loss", "ce", "mtp_ce", "balance")}
    return state, {**metrics, **named, "tokens": targets}

  return compile_step(step, model.mesh)


def gradients(
  model: Transformer,
  weights: Weights,
  batch: Batch,
  knobs: PretrainKnobs,
  loss_chunk: int,
  further: FurtherLoss | None = None,
) -> tuple[Any, _Sums, jax.Array]:
  """Gradients of what is trained over the used micro-batches, what they add up to, and targets."""
  most = batch.tokens_BT.shape[0]
  count = jnp.minimum(jnp.asarray(knobs.micro_batches, jnp.int32), most)
  totals_P = _totals(batch, count, model.config.mtp_depth)

  def objective(params: Any, micro: Batch) -> tuple[jax.Array, _Sums]:
    current = with_trained(weights, params)
    return _loss(model, current, micro, knobs, totals_P, count, loss_chunk, further)

  differentiate = jax.grad(objective, has_aux=True)

  def at(index: jax.typing.ArrayLike) -> tuple[Any, _Sums]:
    micro = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, False), batch)
    return differentiate(trained(weights.params), micro)

  if most == 1:
    grads, sums = at(0)
  else:
    zeros = jax.tree.map(
      lambda s: jnp.zeros(s.shape, jnp.float32), jax.eval_shape(at, jnp.zeros([], jnp.int32))
    )
    grads, sums = jax.lax.fori_loop(
      0, count, lambda i, total: jax.tree.map(jnp.add, total, at(i)), zeros
    )
  return grads, sums, totals_P[0]


def _totals(batch: Batch, count: jax.Array, depth: int) -> jax.Array:
  """Sum of target weights over the used micro-batches, of the main model and each MTP module."""
  used_M11 = (jnp.arange(batch.tokens_BT.shape[0]) < count)[:, None, None]
  return jnp.stack([jnp.sum(shift_targets(batch, k)[1] * used_M11) for k in range(depth + 1)])


def _loss(
  model: Transformer,
  weights: Weights,
  batch: Batch,
  knobs: PretrainKnobs,
  totals_P: jax.Array,
  count: jax.Array,
  chunk: int,
  further: FurtherLoss | None,
) -> tuple[jax.Array, _Sums]:
  """This micro-batch's part of the global loss."""
  span = (batch.positions_BT, batch.segments_BT)
  out = forward(model, weights, batch.tokens_BT, *span)
  load_LE, balance = out.routing.load_LE, jnp.sum(out.routing.balance_L)
  head = head_DV(model, weights)

  def mean_ce(hidden_BTD: jax.Array, depth: int) -> jax.Array:
    targets_BT, weight_BT = shift_targets(batch, depth)
    weight_BT = weight_BT / jnp.maximum(totals_P[depth], 1)
    rows = (flat(model.mesh, x) for x in (hidden_BTD, targets_BT, weight_BT))
    hidden_ND, targets_N, weight_N = rows
    return cross_entropy(hidden_ND, head, targets_N, weight_N, chunk, model.mesh)

  ce, mtp_ce = mean_ce(out.hidden_BTD, 0), jnp.zeros([], jnp.float32)
  depth = model.config.mtp_depth
  if depth:
    hidden_PBTD, routing = mtp_hidden(model, weights, out.hidden_BTD, batch.tokens_BT, *span)
    mtp_ce += sum(mean_ce(hidden_PBTD[k], k + 1) for k in range(depth)) / depth
    load_LE = jnp.concatenate([load_LE, routing.load_LE])
    balance += jnp.sum(routing.balance_L)
  balance = balance / count
  more = jnp.zeros([], jnp.float32)
  if further is not None:
    more = further(out.hidden_BTD, head, batch, totals_P[0])
  loss = knobs.ce_weight * ce + knobs.mtp_weight * mtp_ce + knobs.balance_weight * balance + more
  return loss, _Sums(loss, ce, mtp_ce, balance, more, jax.lax.stop_gradient(load_LE))
