"""The compiled RL step on a small model with experts and an MTP module."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deepseek_jax.config import ComputeConfig, MLAConfig, ModelConfig, MoEConfig
from deepseek_jax.model.transformer import Transformer, forward, init_weights, logits
from deepseek_jax.rl.completions import Completion
from deepseek_jax.rl.packing import pack
from deepseek_jax.sharding import MeshConfig, make_mesh, shard_batch, state_shardings
from deepseek_jax.tasks.task import Problem, Score
from deepseek_jax.train import grpo
from deepseek_jax.train.policy import PolicyKnobs, RatioLevel
from deepseek_jax.train.state import TrainState, init_state
from deepseek_jax.types import Batch, RolloutBatch

CONFIG = ModelConfig(
  vocab=23,
  d_model=16,
  layers=2,
  heads=2,
  dense_ff=24,
  attention=MLAConfig(q_latent=8, kv_latent=8, nope_dim=8, rope_dim=4, v_dim=8),
  moe=MoEConfig(experts=4, top_k=2, expert_ff=8),
  mtp_depth=1,
  max_context=64,
  init_std=0.3,
)
MODEL = Transformer(CONFIG, ComputeConfig())
TX = optax.identity()  # the update is the gradient, times the learning rate
WIDTH, MICRO = 16, 2
PROMPT = 3


@pytest.fixture(scope="module")
def weights():
  return jax.jit(lambda key: init_weights(MODEL, key))(jax.random.key(0))


@pytest.fixture(scope="module")
def step():
  return grpo.make_step(MODEL, TX, grpo.GRPOConfig(loss_chunk=8))


@pytest.fixture(scope="module")
def scorer():
  return grpo.make_scorer(MODEL, grpo.GRPOConfig(loss_chunk=8))


def sequences(count: int = 4) -> list[tuple[np.ndarray, float]]:
  """Token sequences of differing length and their advantages."""
  rng = np.random.default_rng(1)
  return [
    (rng.integers(1, CONFIG.vocab, rng.integers(6, 9)).astype(np.int32), rng.normal())
    for _ in range(count)
  ]


def place(rows_MBS: list[list[list[int]]], items) -> RolloutBatch:
  """Lays sequences (by number) out in rows of micro-batches; unscored (see `scored`)."""
  shape = (len(rows_MBS), len(rows_MBS[0]), WIDTH)
  tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
  mask, advantage = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
  for m, micro in enumerate(rows_MBS):
    for b, row in enumerate(micro):
      start = 0
      for number, i in enumerate(row):
        ids, value = items[i]
        end = start + len(ids)
        tokens[m, b, start:end] = ids
        positions[m, b, start:end] = np.arange(len(ids))
        segments[m, b, start:end] = number + 1
        mask[m, b, start + PROMPT : end] = 1
        advantage[m, b, start + PROMPT : end] = value
        start = end
  total = sum(len(ids) - PROMPT for ids, _ in items)
  layers = CONFIG.expert_layers
  return RolloutBatch(
    batch=Batch(tokens, positions, segments, mask),
    advantage_BT=advantage,
    weight_BT=mask / total,
    old_logprob_BT=np.zeros(shape, np.float32),
    ref_logprob_BT=np.zeros(shape, np.float32),
    experts_LBTA=np.full((shape[0], layers, *shape[1:], CONFIG.moe.top_k), -1, np.int32),
  )


def scored(rollout: RolloutBatch, weights, scorer, log_ratio: float = 0.0) -> RolloutBatch:
  """`rollout` as sampled by a policy whose log-probabilities were `log_ratio` lower."""
  logprob_MBT = np.asarray(scorer(weights, rollout.batch, len(rollout.advantage_BT)))
  mask_MBT = rollout.batch.loss_mask_BT
  return dataclasses.replace(
    rollout,
    old_logprob_BT=(logprob_MBT - log_ratio) * mask_MBT,
    ref_logprob_BT=(logprob_MBT - 0.3) * mask_MBT,
  )


@jax.jit
def route(weights, batch: Batch):
  out = forward(MODEL, weights, batch.tokens_BT, batch.positions_BT, batch.segments_BT)
  return out.routing.experts_LBTA


def routed(weights, rollout: RolloutBatch) -> np.ndarray:
  """The experts the training model chooses, [M, L, B, T, A]."""
  micros = [jax.tree.map(lambda x, m=m: x[m], rollout.batch) for m in range(MICRO)]
  return np.stack([np.asarray(route(weights, micro)) for micro in micros])


def knobs(micro_batches: int = MICRO, mtp_weight: float = 0.0, **policy) -> grpo.GRPOKnobs:
  return grpo.GRPOKnobs(
    policy=PolicyKnobs(**policy),
    learning_rate=1.0,
    micro_batches=micro_batches,
    bias_speed=0.0,
    mtp_weight=mtp_weight,
  )


def fresh(weights) -> TrainState:
  return init_state(jax.tree.map(jnp.copy, weights), TX)


def gradient(step, weights, rollout, settings):
  """The params' change under a step of rate one, sign reversed, and the metrics."""
  state, metrics = step(fresh(weights), rollout, settings)
  change = jax.tree.map(lambda a, b: np.asarray(a - b), weights.params, state.weights.params)
  return change, {name: float(x) for name, x in metrics.items()}


def assert_trees_close(a, b, rtol=2e-4, atol=2e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


PACKED = [[[0, 1], []], [[2], [3]]]
ALONE = [[[0], [1]], [[2], [3]]]


@pytest.mark.parametrize("level", list(RatioLevel))
def test_packing_changes_neither_loss_nor_gradient(step, scorer, weights, level):
  items = sequences()
  settings = knobs(mtp_weight=0.5, ratio_level=level, kl_k3=0.1)
  results = [
    gradient(step, weights, scored(place(rows, items), weights, scorer, 0.05), settings)
    for rows in (PACKED, ALONE)
  ]
  (packed, packed_metrics), (alone, alone_metrics) = results
  assert_trees_close(packed, alone)
  for name in ("loss", "kl", "ratio", "entropy", "mtp_ce", "tokens"):
    np.testing.assert_allclose(packed_metrics[name], alone_metrics[name], rtol=1e-4)


@pytest.fixture(scope="module")
def wide_step():
  """Of wider rows, which would be another compilation of `step`."""
  return grpo.make_step(MODEL, TX, grpo.GRPOConfig(loss_chunk=8))


def sampled() -> list[Completion]:
  """Completions of two prompts, three of each."""
  rng = np.random.default_rng(5)
  prompts = [rng.integers(1, CONFIG.vocab, n).tolist() for n in (6, 4)]
  problem, score = Problem("?", "t", "k"), Score(0.0, 1.0, 1.0)
  found = []
  for prompt in prompts:
    for length in (3, 5, 2):
      tokens = rng.integers(1, CONFIG.vocab, length).tolist()
      experts = np.full((CONFIG.expert_layers, len(prompt) + length, CONFIG.moe.top_k), -1)
      logprobs = rng.normal(-3, 0.1, length).astype(np.float32)
      found.append(Completion(problem, prompt, tokens, logprobs, experts, False, "", score))
  return found


@pytest.mark.parametrize("level", list(RatioLevel))
def test_sharing_a_prompt_changes_neither_loss_nor_gradient(wide_step, weights, level):
  items, settings = sampled(), knobs(mtp_weight=0.5, ratio_level=level)
  advantage_N = np.linspace(-1, 1, len(items))
  weight_N = np.full(len(items), 1 / sum(len(c.tokens) for c in items))
  batches = [
    pack(items, advantage_N, weight_N, (MICRO, 4, 32), 0, repeated)[0]
    for repeated in (0, 1 + CONFIG.mtp_depth)
  ]
  computed = [np.count_nonzero(b.batch.segments_BT) for b in batches]
  assert computed == [50, 38], "four and two tokens of the prompts stand once, not three times"
  (alone, metrics), (shared, shared_metrics) = (
    gradient(wide_step, weights, b, settings) for b in batches
  )
  assert_trees_close(shared, alone)
  for name in ("loss", "ratio", "entropy", "mtp_ce", "tokens", "clipped_low", "clipped_high"):
    np.testing.assert_allclose(shared_metrics[name], metrics[name], rtol=1e-4, err_msg=name)


def test_gradient_is_that_of_the_plain_objective(step, scorer, weights):
  items = sequences()
  rollout = scored(place(ALONE, items), weights, scorer)
  got, metrics = gradient(step, weights, rollout, knobs())

  batch = jax.tree.map(lambda x: x.reshape(-1, WIDTH), rollout.batch)
  advantage_BT = rollout.advantage_BT.reshape(-1, WIDTH)[:, 1:]
  count = batch.loss_mask_BT.sum()

  @jax.jit
  def plain(params):
    model = dataclasses.replace(weights, params=params)
    logits_BTV = logits(MODEL, model, batch.tokens_BT, batch.positions_BT, batch.segments_BT)
    log_softmax_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
    logprob_BT = jnp.take_along_axis(log_softmax_BTV, batch.tokens_BT[:, 1:, None], axis=-1)[..., 0]
    ratio_BT = jnp.exp(logprob_BT - jax.lax.stop_gradient(logprob_BT))
    return -jnp.sum(ratio_BT * advantage_BT) / count  # advantages are zero outside the mask

  want = jax.grad(plain)(weights.params)
  assert_trees_close(got, want)
  np.testing.assert_allclose(metrics["loss"], plain(weights.params), rtol=1e-4)
  np.testing.assert_allclose(metrics["ratio"], 1.0, atol=1e-5)
  assert metrics["ratio_max"] < 1 + 1e-4


def test_unused_micro_batches_are_not_counted(step, scorer, weights):
  items = sequences(2)
  full = scored(place([[[0], [1]], [[0], [1]]], items), weights, scorer)
  one = scored(place([[[0], [1]], [[], []]], items), weights, scorer)
  settings = knobs(micro_batches=1, mtp_weight=0.5)
  assert_trees_close(
    gradient(step, weights, full, settings)[0],
    gradient(step, weights, one, knobs(mtp_weight=0.5))[0],
  )


def test_no_advantage_and_no_kl_is_no_gradient(step, scorer, weights):
  items = [(ids, 0.0) for ids, _ in sequences()]
  change, _ = gradient(step, weights, scored(place(ALONE, items), weights, scorer), knobs())
  assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(change))


def test_mtp_ce_trains_the_modules_alone(step, scorer, weights):
  items = [(ids, 0.0) for ids, _ in sequences()]
  rollout = scored(place(ALONE, items), weights, scorer)
  change, metrics = gradient(step, weights, rollout, knobs(mtp_weight=1.0))
  moved = {name for name, tree in change.items() if any(np.any(x) for x in jax.tree.leaves(tree))}
  assert moved == {"mtp_0"}
  assert 0 < metrics["mtp_ce"] < 3 * np.log(CONFIG.vocab)


def test_every_setting_shares_one_compilation(step, scorer, weights):
  rollout = scored(place(PACKED, sequences()), weights, scorer)
  for level in RatioLevel:
    settings = knobs(micro_batches=1, mtp_weight=0.3, ratio_level=level, kl_k1=0.1, clip_high=9.0)
    step(fresh(weights), rollout, settings)
  assert step._cache_size() == 1


def test_bias_moves_by_the_loads_of_all_micro_batches(step, scorer, weights):
  rollout = scored(place(PACKED, sequences()), weights, scorer)
  settings = dataclasses.replace(knobs(), bias_speed=0.01)
  state, metrics = step(fresh(weights), rollout, settings)
  load_E = np.zeros(CONFIG.moe.experts)
  for experts_LBTA, segments_BT in zip(routed(weights, rollout), rollout.batch.segments_BT):
    load_E += np.bincount(experts_LBTA[0][segments_BT > 0].ravel(), minlength=load_E.size)
  moved_LE = np.asarray(state.weights.router_bias_LE - weights.router_bias_LE)
  np.testing.assert_allclose(moved_LE[0], 0.01 * np.sign(load_E.mean() - load_E), atol=1e-7)
  assert np.any(moved_LE[1]), "the MTP module's router moves as well"
  assert metrics["max_violation"] > 0


def test_mismatch_counts_tokens_whose_experts_differ(step, scorer, weights):
  rollout = scored(place(ALONE, sequences()), weights, scorer, log_ratio=0.0)
  _, metrics = gradient(step, weights, rollout, knobs())
  assert metrics["experts_differ"] == 0 and metrics["mismatch"] == 0, "all are unknown"

  experts = routed(weights, rollout)
  old = np.array(rollout.old_logprob_BT)
  old[0, 0, PROMPT] += 0.02  # a token whose experts agree
  old[0, 0, PROMPT + 1] += 0.5  # and one whose experts differ: at its input, one to the left
  experts[0, 0, 0, PROMPT] = (experts[0, 0, 0, PROMPT] + 1) % CONFIG.moe.experts
  altered = dataclasses.replace(rollout, old_logprob_BT=old, experts_LBTA=experts)
  _, metrics = gradient(step, weights, altered, knobs())
  np.testing.assert_allclose(metrics["mismatch"], 0.02, atol=1e-5)
  np.testing.assert_allclose(metrics["experts_differ"], 1 / metrics["tokens"], rtol=1e-5)


@pytest.mark.parametrize("sizes", [MeshConfig(expert=2, tensor=2), MeshConfig(fsdp=2, context=2)])
def test_gradients_over_devices_are_those_of_one(step, scorer, weights, sizes):
  items = sequences()
  rollout = scored(place(PACKED, items), weights, scorer, 0.05)
  settings = knobs(mtp_weight=0.5, ratio_level=RatioLevel.SEQUENCE_MEAN, kl_k3=0.1)
  want, want_metrics = gradient(step, weights, rollout, settings)

  mesh = make_mesh(sizes, jax.devices()[:4])
  split = MODEL.clone(mesh=mesh)
  state = jax.device_put(fresh(weights), state_shardings(mesh, fresh(weights)))
  split_step = grpo.make_step(split, TX, grpo.GRPOConfig(loss_chunk=8))
  state, metrics = split_step(state, shard_batch(mesh, rollout), settings)
  got = jax.tree.map(
    lambda a, b: np.asarray(a) - np.asarray(b), weights.params, state.weights.params
  )
  scale = max(np.abs(x).max() for x in jax.tree.leaves(want))
  assert_trees_close(got, want, rtol=1e-5, atol=1e-5 * scale)
  for name, value in want_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
