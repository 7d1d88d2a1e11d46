"""The reward model's step: its loss against plain NumPy, gradients, bias, meshes, learning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_jax.config import GQAConfig, MLAConfig, ModelConfig, MoEConfig
from deepseek_jax.data.preference_batches import PreferenceBatches, preference_batch
from deepseek_jax.data.preferences import Preference
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.model.reward import HEAD, text_rewards, with_head
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.ops.routing import bias_update
from deepseek_jax.rl.reward_model import RewardModel
from deepseek_jax.sharding import MeshConfig, make_mesh, shard_batch, state_shardings
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.reward_model import RewardKnobs, make_step, preference_loss
from deepseek_jax.train.state import init_state
from deepseek_jax.types import PreferenceBatch, Weights

EXPERTS = ModelConfig(
  vocab=48,
  d_model=16,
  layers=2,
  heads=2,
  dense_ff=24,
  attention=MLAConfig(q_latent=12, kv_latent=8, nope_dim=8, rope_dim=4, v_dim=8),
  moe=MoEConfig(experts=8, top_k=2, expert_ff=8, groups=4, top_groups=2),
  mtp_depth=1,
)
DENSE = dataclasses.replace(
  EXPERTS, attention=GQAConfig(kv_heads=1, head_dim=8), moe=None, mtp_depth=0, tied=True
)
KEEP_GRADIENTS = optax.trace(decay=0.0)  # an optimiser whose state is the last gradient
KNOBS = RewardKnobs(learning_rate=0.01, bias_speed=0.001, balance_weight=0.05)


def naive_loss(rewards, batch):
  """Row by row, by the formulas, in float64."""
  losses, sigmoid = [], lambda x: 1 / (1 + np.exp(-x))
  for i, reward in enumerate(rewards):
    if batch.chosen_B[i]:
      losses.append(-np.log(sigmoid(reward - rewards[i + 1])))
    if batch.judged_B[i]:
      right = sigmoid(reward) if batch.label_B[i] else 1 - sigmoid(reward)
      losses.append(-np.log(right))
  return np.mean(losses) if losses else 0.0


def batch_of(kinds, rows):
  """The marks of a batch: `p` a pair, `1` and `0` labels, the rest padding."""
  preferences = [
    Preference(((1,), (2,)), None, "") if kind == "p" else Preference(((1,),), float(kind), "")
    for kind in kinds
  ]
  return preference_batch(preferences, rows, 2, 0)


@given(st.text("p01", max_size=5), st.integers(0, 2**16))
@settings(deadline=None, max_examples=40)
def test_loss_is_bradley_and_terrys_and_the_cross_entropy(kinds, seed):
  batch = batch_of(kinds, 12)
  rewards_B = np.random.default_rng(seed).normal(scale=3, size=12).astype(np.float32)
  loss, metrics = preference_loss(jnp.asarray(rewards_B), batch)
  np.testing.assert_allclose(loss, naive_loss(np.float64(rewards_B), batch), rtol=1e-5, atol=1e-6)
  assert metrics["pairs"] == kinds.count("p") and metrics["labels"] == len(kinds) - metrics["pairs"]
  moved, _ = preference_loss(jnp.asarray(rewards_B + 2), batch_of("p" * kinds.count("p"), 12))
  still, _ = preference_loss(jnp.asarray(rewards_B), batch_of("p" * kinds.count("p"), 12))
  np.testing.assert_allclose(moved, still, rtol=1e-4, atol=1e-5)  # only differences count


def test_accuracies_and_margin_are_of_what_there_is():
  batch = batch_of("pp10", 8)
  rewards_B = jnp.array([3.0, 1.0, -1.0, -1.0, 2.0, 4.0, 9.0, -9.0])
  _, metrics = preference_loss(rewards_B, batch)
  assert metrics["pair_accuracy"] == 0.75  # the second pair is a draw
  assert metrics["margin"] == 1.0 and metrics["label_accuracy"] == 0.5
  _, nothing = preference_loss(rewards_B, batch_of("", 8))
  assert nothing["pair_accuracy"] == 0 and nothing["pairs"] == 0


@pytest.fixture(scope="module", params=[EXPERTS, DENSE], ids=["experts", "dense"])
def model(request):
  return Transformer(request.param)


@pytest.fixture(scope="module")
def weights(model):
  weights = with_head(jax.jit(lambda key: init_weights(model, key))(jax.random.key(0)))
  bias_LE = 0.1 * jax.random.normal(jax.random.key(1), weights.router_bias_LE.shape)
  value_D = jax.random.normal(jax.random.key(2), (16,))
  return Weights({**weights.params, HEAD: {"value_D": value_D}}, bias_LE)


def preferences(seed=0, count=6):
  """Pairs and labels of random texts of 2 to 11 tokens."""
  rng = np.random.default_rng(seed)

  def text():
    return rng.integers(1, 48, rng.integers(2, 12)).tolist()

  pairs = [Preference((text(), text()), None, str(i)) for i in range(count)]
  return [*pairs, Preference((text(),), 1.0, "a"), Preference((text(),), 0.0, "b")]


@pytest.fixture(scope="module")
def batch():
  return preference_batch(preferences(), 16, 12, 0)


@pytest.fixture(scope="module")
def stepped(model, weights, batch):
  state = init_state(jax.tree.map(jnp.copy, weights), KEEP_GRADIENTS)
  return make_step(model, KEEP_GRADIENTS)(state, batch, KNOBS)


def naive(model, weights, batch):
  """The loss without masks: pair by pair and label by label, with the balance loss."""

  def loss(params):
    span = (batch.tokens_BT, batch.positions_BT, batch.segments_BT)
    rewards_B, routing = text_rewards(model, Weights(params, weights.router_bias_LE), *span)
    pairs = [-jnp.log(1 / (1 + jnp.exp(rewards_B[i + 1] - rewards_B[i]))) for i in range(0, 12, 2)]
    safe = -jnp.log(1 / (1 + jnp.exp(-rewards_B[12])))
    unsafe = -jnp.log(1 - 1 / (1 + jnp.exp(-rewards_B[13])))
    total = sum([*pairs, safe, unsafe]) / 8
    return total + 0.05 * jnp.sum(routing.balance_L), routing.load_LE

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(weights.params)


def test_gradients_are_those_of_the_naive_loss(model, weights, batch, stepped):
  (loss, _), grads = naive(model, weights, batch)
  state, metrics = stepped
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6),
    state.opt_state.trace,
    grads,
  )
  moved = jax.tree.map(lambda p, g: p - 0.01 * g, weights.params, grads)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.weights.params, moved
  )


def test_router_bias_moves_by_rule_and_that_of_mtp_stays(model, weights, batch, stepped):
  state, metrics = stepped
  if model.config.moe is None:
    assert state.weights.router_bias_LE.size == 0 and "max_violation" not in metrics
    return
  (_, load_LE), _ = naive(model, weights, batch)
  before, after = weights.router_bias_LE, state.weights.router_bias_LE
  np.testing.assert_allclose(after[:1], bias_update(before[:1], load_LE, 0.001), rtol=1e-6)
  assert np.any(after[:1] != before[:1])
  np.testing.assert_array_equal(after[1:], before[1:])
  assert float(load_LE.sum()) == 2 * float(batch.segments_BT.sum())  # padding loads no expert
  mean = load_LE.mean(axis=-1)
  wanted = np.mean((load_LE.max(axis=-1) - mean) / mean)
  np.testing.assert_allclose(metrics["max_violation"], wanted, rtol=1e-5)


def test_rows_of_padding_change_nothing(model, weights, batch, stepped):
  more = preference_batch(preferences(), 20, 16, 0)
  state = init_state(jax.tree.map(jnp.copy, weights), KEEP_GRADIENTS)
  state, metrics = make_step(model, KEEP_GRADIENTS)(state, more, KNOBS)
  np.testing.assert_allclose(metrics["loss"], stepped[1]["loss"], rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6),
    state.opt_state.trace,
    stepped[0].opt_state.trace,
  )


def test_a_step_on_a_mesh_is_that_of_one_device(model, weights, batch, stepped):
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, expert=2))
  sharded = Transformer(model.config, mesh=mesh)
  state = init_state(jax.tree.map(jnp.copy, weights), KEEP_GRADIENTS)
  state = jax.device_put(state, state_shardings(mesh, state))
  scorer = RewardModel(sharded, state.weights, load_tokenizer("byte"))
  alone = RewardModel(model, weights, load_tokenizer("byte"))
  texts = [[1, 2, 3], [4] * 40, [5]]
  found, wanted = scorer.score_tokens(texts), alone.score_tokens(texts)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  step = make_step(sharded, KEEP_GRADIENTS)
  state, metrics = step(state, shard_batch(mesh, batch), KNOBS)
  for name, value in stepped[1].items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6),
    state.opt_state.trace,
    stepped[0].opt_state.trace,
  )


def test_what_can_be_told_apart_is_learnt(model):
  """One token tells: texts not seen in training are judged right more than nine times in ten."""
  rng = np.random.default_rng(4)

  def text(good):
    body = rng.integers(3, 48, 6)
    body[rng.integers(6)] = 1 if good else 2
    return [*body.tolist(), 0]

  def make(count):
    pairs = [Preference((text(True), text(False)), None, str(i)) for i in range(count)]
    labels = [Preference((text(i % 2),), float(i % 2), str(i)) for i in range(count)]
    return pairs + labels

  tx = make_optimizer(OptimizerConfig(weight_decay=0.0))
  weights = with_head(jax.jit(lambda key: init_weights(model, key))(jax.random.key(3)))
  state, step = init_state(weights, tx), make_step(model, tx)
  for batch in PreferenceBatches(make(160), 24, 32, 0, seed=0, epochs=3):
    state, metrics = step(state, batch, RewardKnobs(1e-2, 1e-3))
    metrics = jax.device_get(metrics)
  held = preference_batch(make(40), 120, 32, 0)
  span = (held.tokens_BT, held.positions_BT, held.segments_BT)
  rewards_B, _ = jax.jit(lambda w: text_rewards(model, w, *span))(state.weights)
  _, metrics = preference_loss(rewards_B, held)
  assert metrics["pair_accuracy"] > 0.9 and metrics["label_accuracy"] > 0.9


def test_chosen_rows_stand_before_rejected_ones():
  batch = preference_batch(
    [Preference(((7,),), 0.0, ""), Preference(((8, 9), (6,)), None, "")], 4, 2, 0
  )
  assert isinstance(batch, PreferenceBatch)
  np.testing.assert_array_equal(batch.tokens_BT, [[7, 0], [8, 9], [6, 0], [0, 0]])
  np.testing.assert_array_equal(batch.chosen_B, [0, 1, 0, 0])
  np.testing.assert_array_equal(batch.judged_B, [1, 0, 0, 0])
