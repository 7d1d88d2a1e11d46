"""The pre-training step: its loss, its accumulation, its bias."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepseek_jax.config import MLAConfig, ModelConfig, MoEConfig
from deepseek_jax.model.transformer import (
  Transformer,
  forward,
  head_DV,
  init_weights,
  mtp_hidden,
)
from deepseek_jax.ops.routing import bias_update
from deepseek_jax.train.losses import shift_targets
from deepseek_jax.train.pretrain import PretrainConfig, PretrainKnobs, gradients, make_step
from deepseek_jax.train.state import init_state
from deepseek_jax.types import Batch

MODEL = Transformer(
  ModelConfig(
    vocab=48,
    d_model=16,
    layers=2,
    heads=2,
    dense_ff=24,
    attention=MLAConfig(q_latent=12, kv_latent=8, nope_dim=8, rope_dim=4, v_dim=8),
    moe=MoEConfig(experts=8, top_k=2, expert_ff=8, groups=4, top_groups=2),
    mtp_depth=1,
  )
)
KEEP_GRADIENTS = optax.trace(decay=0.0)  # an optimiser whose state is the last gradient
MICRO, ROWS, LENGTH = 4, 2, 12
KNOBS = PretrainKnobs(
  learning_rate=0.01, bias_speed=0.001, mtp_weight=0.3, balance_weight=0.05, micro_batches=3
)


@pytest.fixture(scope="module")
def weights():
  weights = jax.jit(lambda key: init_weights(MODEL, key))(jax.random.key(0))
  bias_LE = 0.1 * jax.random.normal(jax.random.key(1), weights.router_bias_LE.shape)
  return weights.replace(router_bias_LE=bias_LE)


@pytest.fixture(scope="module")
def batch():
  """[M 4, B 2, T 12], with documents, padding and masks of uneven number in the micro-batches."""
  rng = np.random.default_rng(0)
  shape = (MICRO, ROWS, LENGTH)
  segments = np.ones(shape, np.int32)
  segments[..., 7:] = 2
  segments[1, 0, 9:] = 0
  mask = rng.integers(0, 2, shape).astype(np.float32)
  mask[2] = 1
  positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), shape)
  return jax.tree.map(
    jnp.asarray, Batch(rng.integers(0, 48, shape).astype(np.int32), positions, segments, mask)
  )


def flat(batch, used):
  """The first `used` micro-batches as the rows of one."""
  return jax.tree.map(lambda x: x[:used].reshape(1, -1, LENGTH), batch)


@pytest.fixture(scope="module")
def step():
  return make_step(MODEL, KEEP_GRADIENTS, PretrainConfig(loss_chunk=16))


@pytest.fixture(scope="module")
def accumulated(weights, batch, step):
  """State and metrics after a step of three of the four micro-batches."""
  return step(init_state(jax.tree.map(jnp.copy, weights), KEEP_GRADIENTS), batch, KNOBS)


@pytest.fixture(scope="module")
def at_once(weights, batch):
  one = dataclasses.replace(KNOBS, micro_batches=1)
  return jax.jit(lambda w, b, k: gradients(MODEL, w, b, k, 64))(weights, flat(batch, 3), one)


def test_accumulation_is_one_big_batch(accumulated, at_once):
  (state, metrics), (grads, sums, targets) = accumulated, at_once

  def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

  jax.tree.map(close, state.opt_state.trace, grads)
  for name in ("loss", "ce", "mtp_ce", "balance"):
    close(metrics[name], getattr(sums, name))
  assert metrics["tokens"] == targets
  close(metrics["grad_norm"], optax.global_norm(grads))


def test_loss_is_the_sum_of_its_published_parts(weights, batch, at_once):
  rows = jax.tree.map(lambda x: x[0], flat(batch, 3))

  def mean_ce(hidden_BTD, depth):
    targets_BT, weight_BT = shift_targets(rows, depth)
    logp = jax.nn.log_softmax(hidden_BTD @ head_DV(MODEL, weights))
    picked = jnp.take_along_axis(logp, targets_BT[..., None], axis=-1)[..., 0]
    return -jnp.sum(picked * weight_BT) / jnp.sum(weight_BT)

  def parts():
    span = (rows.positions_BT, rows.segments_BT)
    out = forward(MODEL, weights, rows.tokens_BT, *span)
    further, routing = mtp_hidden(MODEL, weights, out.hidden_BTD, rows.tokens_BT, *span)
    balance = out.routing.balance_L.sum() + routing.balance_L.sum()
    return mean_ce(out.hidden_BTD, 0), mean_ce(further[0], 1), balance

  ce, mtp_ce, balance = jax.jit(parts)()
  sums = at_once[1]
  np.testing.assert_allclose(sums.ce, ce, rtol=1e-5)
  np.testing.assert_allclose(sums.mtp_ce, mtp_ce, rtol=1e-5)
  np.testing.assert_allclose(sums.balance, balance, rtol=1e-5)
  np.testing.assert_allclose(sums.loss, ce + 0.3 * mtp_ce + 0.05 * balance, rtol=1e-5)
  assert at_once[2] == shift_targets(rows)[1].sum()


def test_step_moves_the_bias_by_rule_and_never_by_gradient(weights, accumulated, at_once):
  state, metrics = accumulated
  load_LE = np.asarray(at_once[1].load_LE)
  sign_LE = np.sign(load_LE.mean(1, keepdims=True) - load_LE)
  wanted_LE = np.asarray(weights.router_bias_LE) + 0.001 * sign_LE
  np.testing.assert_allclose(state.weights.router_bias_LE, wanted_LE, rtol=1e-5)
  violation = np.mean(load_LE.max(1) / load_LE.mean(1) - 1)
  np.testing.assert_allclose(metrics["max_violation"], violation, rtol=1e-5)


def test_the_rule_flattens_the_load(weights):
  """Many bias steps alone, on one batch: experts that were overloaded are not any more."""
  tokens_BT = jax.random.randint(jax.random.key(2), (8, LENGTH), 0, 48)
  positions_BT = jnp.broadcast_to(jnp.arange(LENGTH), tokens_BT.shape)

  @jax.jit
  def load(weights):
    out = forward(MODEL, weights, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))
    return out.routing.load_LE

  def violation(load_LE):
    return float((load_LE.max(1) / load_LE.mean(1) - 1).mean())

  start = violation(load(weights))
  for _ in range(60):
    load_LE = load(weights)
    bias_LE = weights.router_bias_LE
    bias_LE = bias_LE.at[: len(load_LE)].set(bias_update(bias_LE[: len(load_LE)], load_LE, 0.02))
    weights = weights.replace(router_bias_LE=bias_LE)
  assert violation(load(weights)) < 0.5 * start


def test_knobs_do_not_recompile(weights, batch, step, accumulated):
  bias_LE = np.asarray(weights.router_bias_LE)
  other = PretrainKnobs(learning_rate=0.5, bias_speed=0.0, mtp_weight=0.1, micro_batches=1)
  state, metrics = step(init_state(jax.tree.map(jnp.copy, weights), KEEP_GRADIENTS), batch, other)
  assert step._cache_size() == 1
  assert metrics["tokens"] < accumulated[1]["tokens"]
  np.testing.assert_array_equal(state.weights.router_bias_LE, bias_LE)
