"""Distillation on logits against the plain formula."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepseek_jax.config import ConfigError, GQAConfig, ModelConfig
from deepseek_jax.model.transformer import Transformer, init_weights, logits
from deepseek_jax.train.distill import DistillKnobs, make_step, tempered_divergence
from deepseek_jax.train.pretrain import PretrainConfig, PretrainKnobs
from deepseek_jax.train.state import init_state
from deepseek_jax.types import Batch

STUDENT = ModelConfig(
  vocab=19, d_model=8, layers=1, heads=2, dense_ff=12, attention=GQAConfig(kv_heads=1, head_dim=4),
  init_std=0.5,
)  # fmt: skip
TEACHER = dataclasses.replace(STUDENT, d_model=12, dense_ff=16)


def naive(student_NV, teacher_NV, weights_N, temperature):
  p_NV = jax.nn.softmax(teacher_NV / temperature)
  q_NV = jax.nn.softmax(student_NV / temperature)
  return temperature**2 * jnp.sum(weights_N[:, None] * p_NV * jnp.log(p_NV / q_NV))


@pytest.mark.parametrize("chunk", [1, 3, 64])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_and_gradients_equal_the_naive_ones(chunk, temperature):
  keys = jax.random.split(jax.random.key(0), 5)
  mine = (jax.random.normal(keys[0], (10, 4)), jax.random.normal(keys[1], (4, 19)))
  theirs = (jax.random.normal(keys[2], (10, 6)), jax.random.normal(keys[3], (6, 19)))
  weights_N = jax.random.uniform(keys[4], (10,))

  def chunked(mine):
    return tempered_divergence(mine, theirs, weights_N, temperature, chunk)

  def plain(mine):
    return naive(mine[0] @ mine[1], theirs[0] @ theirs[1], weights_N, temperature)

  got, got_grads = jax.value_and_grad(chunked)(mine)
  want, want_grads = jax.value_and_grad(plain)(mine)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for a, b in zip(got_grads, want_grads):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_model_is_no_distance_from_itself():
  mine = (
    jax.random.normal(jax.random.key(0), (5, 4)),
    jax.random.normal(jax.random.key(1), (4, 9)),
  )
  value, grads = jax.value_and_grad(
    lambda student: tempered_divergence(student, mine, jnp.ones(5), 1.5, 2)
  )(mine)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  assert all(np.abs(g).max() < 1e-5 for g in grads)


@pytest.fixture(scope="module")
def models():
  student, teacher = Transformer(STUDENT), Transformer(TEACHER)
  start = jax.jit(init_weights, static_argnums=0)
  return (
    student, start(student, jax.random.key(0)),
    teacher, start(teacher, jax.random.key(1)),
  )  # fmt: skip


def test_step_mixes_divergence_and_cross_entropy(models):
  student, weights, teacher, teacher_weights = models
  rng = np.random.default_rng(0)
  tokens_BT = rng.integers(1, 19, (2, 8)).astype(np.int32)
  positions_BT = np.tile(np.arange(8, dtype=np.int32), (2, 1))
  mask_BT = np.ones((2, 8), np.float32)
  mask_BT[:, :3] = 0
  batch = Batch(tokens_BT, positions_BT, np.ones((2, 8), np.int32), mask_BT)
  step = make_step(student, teacher, optax.identity(), PretrainConfig(loss_chunk=4))
  teacher_BTV = logits(teacher, teacher_weights, tokens_BT)[:, 2:-1]

  @jax.jit
  def plain(params, mix, temperature):
    mine_BTV = logits(student, dataclasses.replace(weights, params=params), tokens_BT)[:, 2:-1]
    targets_BT1 = tokens_BT[:, 3:, None]
    ce = -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(mine_BTV), targets_BT1, -1))
    flat = (mine_BTV.reshape(-1, 19), teacher_BTV.reshape(-1, 19))
    divergence = naive(*flat, jnp.full(10, 0.1), temperature)
    return (1 - mix) * ce + mix * divergence, (ce, divergence)

  for mix, temperature in ((1.0, 1.0), (0.25, 2.0), (0.0, 1.0)):
    knobs = DistillKnobs(PretrainKnobs(learning_rate=1.0), mix, temperature)
    state = init_state(jax.tree.map(jnp.copy, weights), optax.identity())
    state, metrics = step(state, teacher_weights, jax.tree.map(lambda x: x[None], batch), knobs)
    (loss, (ce, divergence)), grads = jax.value_and_grad(plain, has_aux=True)(
      weights.params, mix, temperature
    )
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["ce"], ce, rtol=1e-5)
    np.testing.assert_allclose(metrics["divergence"], divergence if mix else 0.0, rtol=1e-5)
    jax.tree.map(
      lambda a, b, g: np.testing.assert_allclose(a - b, g, rtol=1e-3, atol=1e-5),
      weights.params, state.weights.params, grads,
    )  # fmt: skip
  assert step._cache_size() == 1


def test_two_vocabularies_are_refused(models):
  student, _, teacher, _ = models
  other = teacher.clone(config=dataclasses.replace(TEACHER, vocab=20))
  with pytest.raises(ConfigError, match="vocabulary has 19 tokens, the teacher's 20"):
    make_step(student, other, optax.identity())


def test_padded_vocabularies_of_two_sizes_are_matched_without_their_padding(models):
  """Heads that differ only in columns behind the tokenizer's ids teach the same."""
  student, weights, teacher, teacher_weights = models
  wide = Transformer(dataclasses.replace(TEACHER, vocab=24))
  params = dict(teacher_weights.params)
  embed_VD, head_DV = params["embed_VD"], params["head_DV"]
  params["embed_VD"] = jnp.full((24, 12), 3.0).at[:17].set(embed_VD[:17])
  params["head_DV"] = jnp.full((12, 24), 3.0).at[:, :17].set(head_DV[:, :17])
  tokens_BT = np.arange(1, 9, dtype=np.int32)[None]
  ones_BT = np.ones((1, 8), np.int32)
  positions_BT = np.arange(8, dtype=np.int32)[None]
  batch = Batch(tokens_BT, positions_BT, ones_BT, ones_BT.astype(np.float32))
  step = make_step(student, wide, optax.identity(), PretrainConfig(loss_chunk=4), vocab=17)
  knobs = DistillKnobs(PretrainKnobs(learning_rate=1.0), 1.0, 1.0)
  state = init_state(jax.tree.map(jnp.copy, weights), optax.identity())
  padded = dataclasses.replace(teacher_weights, params=params)
  _, metrics = step(state, padded, jax.tree.map(lambda x: x[None], batch), knobs)
  mine_NV, theirs_NV = (
    logits(model, held, tokens_BT)[0, :-1, :17]
    for model, held in ((student, weights), (teacher, teacher_weights))
  )
  expected = naive(mine_NV, theirs_NV, jnp.full(7, 1 / 7), 1.0)
  np.testing.assert_allclose(metrics["divergence"], expected, rtol=1e-5)
