"""The step of a reward model: pairs by Bradley and Terry, single labels by cross-entropy.

A pair's loss is -log sigmoid(r_chosen - r_rejected) (2203.02155, equation 1; each pair is one of
K = 2 answers), a label's the binary cross-entropy of sigmoid(r), as R1's helpfulness and safety
rewards are trained (2501.12948, the second RL stage). A batch may hold both; its loss is the mean
over all of them, each counting once. To it comes the sequence-wise balance loss of expert layers,
and the router bias moves as in pre-training: routers left standing drift out of balance. MTP
modules are not run, so that their biases stay.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from deepseek_jax.model.reward import text_rewards
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.train.state import (
  Metrics,
  TrainState,
  apply_gradients,
  compile_step,
  selects_by_bias,
)
from deepseek_jax.types import PreferenceBatch, Weights


@flax.struct.dataclass
class RewardKnobs:
  """Traced scalars."""

  learning_rate: Any
  bias_speed: Any = 0.0
  balance_weight: Any = 1e-4


Step = Callable[[TrainState, PreferenceBatch, RewardKnobs], tuple[TrainState, Metrics]]


def preference_loss(rewards_B: jax.Array, batch: PreferenceBatch) -> tuple[jax.Array, Metrics]:
  """The mean loss of a batch's pairs and labels, and its report.

  Metrics: pairs and labels, how many there are; pair_accuracy, the share of pairs whose chosen text
  has the higher reward (equal ones count half); margin, the mean of r_chosen - r_rejected;
  label_accuracy, the share of labels on whose side of 0 the reward lies. What there is none of has
  0 for its mean.
  """
  margin_B = rewards_B - jnp.roll(rewards_B, -1)
  pairs, labels = jnp.sum(batch.chosen_B), jnp.sum(batch.judged_B)
  pair_loss_B = -jax.nn.log_sigmoid(margin_B)
  label_loss_B = optax.sigmoid_binary_cross_entropy(rewards_B, batch.label_B)
  total = jnp.sum(batch.chosen_B * pair_loss_B + batch.judged_B * label_loss_B)
  side_B = (2 * batch.label_B - 1) * rewards_B

  def mean(values_B: jax.Array, weight_B: jax.Array) -> jax.Array:
    return jnp.sum(values_B * weight_B) / jnp.maximum(jnp.sum(weight_B), 1.0)

  metrics = {
    "pairs": pairs,
    "pair_accuracy": mean(_positive(margin_B), batch.chosen_B),
    "margin": mean(margin_B, batch.chosen_B),
    "labels": labels,
    "label_accuracy": mean(_positive(side_B), batch.judged_B),
  }
  return total / jnp.maximum(pairs + labels, 1.0), metrics


def make_step(
  model: Transformer, tx: optax.GradientTransformation, ema_decay: float | None = None
) -> Step:
  """step(state, batch, knobs) -> (state, metrics), compiled, with the state donated.

  The state's weights have a reward head. Compiles once per shape of the batch. Metrics: loss,
  balance (before its weight), grad_norm, max_violation, and those of `preference_loss`.
  """

  def step(
    state: TrainState, batch: PreferenceBatch, knobs: RewardKnobs
  ) -> tuple[TrainState, Metrics]:
    bias_LE = state.weights.router_bias_LE

    def objective(params: Any) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
      span = (batch.positions_BT, batch.segments_BT)
      rewards_B, routing = text_rewards(model, Weights(params, bias_LE), batch.tokens_BT, *span)
      loss, metrics = preference_loss(rewards_B, batch)
      balance = jnp.sum(routing.balance_L)
      loss += knobs.balance_weight * balance
      metrics |= {"loss": loss, "balance": balance}
      return loss, (metrics, jax.lax.stop_gradient(routing.load_LE))

    grads, (metrics, load_LE) = jax.grad(objective, has_aux=True)(state.weights.params)
    load = None
    if selects_by_bias(model.config) and model.config.expert_layers:
      load = jnp.pad(load_LE, ((0, len(bias_LE) - len(load_LE)), (0, 0)))
    state, moved = apply_gradients(
      state, grads, load, tx, knobs.learning_rate, knobs.bias_speed, ema_decay
    )
    if load is not None:  # of the layers that were run
      moved["max_violation"] *= len(bias_LE) / len(load_LE)
    return state, {**moved, **metrics}

  return compile_step(step, model.mesh)


@functools.cache
def make_scorer(model: Transformer) -> Callable[..., jax.Array]:
  """score(weights, tokens_BT, positions_BT, segments_BT) -> rewards_B, compiled once per shape."""

  def score(weights: Weights, *rows: jax.Array) -> jax.Array:
    return text_rewards(model, weights, *rows)[0]

  return jax.jit(score)


def _positive(values_B: jax.Array) -> jax.Array:
  """1 where a value is above 0, a half where it is 0."""
  return 0.5 * (jnp.sign(values_B) + 1)
