"""A training step on any mesh is the step of one device: loss, gradients, router bias."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from deepseek_jax.config import (
  ComputeConfig,
  ConfigError,
  GQAConfig,
  MLAConfig,
  ModelConfig,
  MoEConfig,
)
from deepseek_jax.model.adapters import LoRAConfig, adapt, draw_adapters
from deepseek_jax.model.transformer import Transformer, forward, init_weights
from deepseek_jax.ops import blockwise
from deepseek_jax.sharding import MeshConfig, init_sharded, make_mesh, shard_batch, state_shardings
from deepseek_jax.train.pretrain import PretrainKnobs, make_step
from deepseek_jax.train.state import TrainState, init_state
from deepseek_jax.types import Batch

MOE = ModelConfig(
  vocab=64,
  d_model=32,
  layers=2,
  heads=4,
  dense_ff=48,
  attention=MLAConfig(q_latent=24, kv_latent=16, nope_dim=8, rope_dim=4, v_dim=8),
  moe=MoEConfig(experts=8, top_k=3, expert_ff=16, groups=4, top_groups=2, dense_layers=0),
  mtp_depth=1,
)
DENSE = dataclasses.replace(
  MOE, attention=GQAConfig(kv_heads=2, head_dim=8, qkv_bias=True), moe=None, mtp_depth=0, tied=True
)
CONFIGS = (MOE, DENSE)
KEEP_GRADIENTS = optax.trace(decay=0.0)  # an optimiser whose state is the last gradient
KNOBS = PretrainKnobs(
  learning_rate=0.1, bias_speed=0.01, mtp_weight=0.3, balance_weight=0.1, micro_batches=2
)


def micro_batches() -> Batch:
  """[M 2, B 8, T 12]: two documents in every row but the first, and some padding."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, MOE.vocab, (2, 8, 12)).astype(np.int32)
  segments = np.ones_like(tokens)
  segments[:, 1:, 7:] = 2
  segments[:, 3, 9:] = 0
  positions = np.broadcast_to(np.arange(12, dtype=np.int32), tokens.shape).copy()
  positions[:, 1:, 7:] -= 7
  return Batch(tokens, positions, segments, np.ones(tokens.shape, np.float32))


def create(model: Transformer, key: jax.Array) -> TrainState:
  return init_state(init_weights(model, key), KEEP_GRADIENTS)


@pytest.fixture(scope="module")
def beginnings():
  """A state of each configuration, on the host."""
  key = jax.random.key(0)
  return {
    c: jax.device_get(jax.jit(create, static_argnums=0)(Transformer(c), key)) for c in CONFIGS
  }


def stepped(model: Transformer, state: TrainState, batch: Batch):
  """One step from a state on the host: the new state and the metrics."""
  if model.mesh is not None:
    state = jax.device_put(state, state_shardings(model.mesh, state))
  step = make_step(model, KEEP_GRADIENTS)
  return jax.block_until_ready(step(state, shard_batch(model.mesh, batch), KNOBS))


@pytest.fixture(scope="module")
def alone(beginnings):
  """One step on one device."""
  return {c: stepped(Transformer(c), beginnings[c], micro_batches()) for c in CONFIGS}


@pytest.mark.parametrize(
  "sizes", [MeshConfig(data=2, fsdp=2, expert=2), MeshConfig(expert=2, context=2, tensor=2)]
)
def test_the_routers_bias_is_that_of_one_device_after_twenty_steps(sizes, beginnings):
  knobs = dataclasses.replace(KNOBS, learning_rate=1e-3)
  found = []
  for mesh in (make_mesh(sizes), None):
    state = beginnings[MOE]
    if mesh is not None:
      state = jax.device_put(state, state_shardings(mesh, state))
    step = make_step(Transformer(MOE, mesh=mesh), KEEP_GRADIENTS)
    batch = shard_batch(mesh, micro_batches())
    for _ in range(20):
      state, _ = step(state, batch, knobs)
    found.append(np.asarray(state.weights.router_bias_LE))
  np.testing.assert_array_equal(*found)
  steps = np.round(found[0] / KNOBS.bias_speed)
  assert np.abs(steps).max() > 3  # more than one step apart from where it began


def test_grouped_queries_and_rows_that_a_context_does_not_divide_are_refused(beginnings):
  mesh = make_mesh(MeshConfig(data=2, context=4))
  with pytest.raises(ConfigError, match=r"mesh.context splits the tokens of MLA, and this model"):
    stepped(Transformer(DENSE, mesh=mesh), beginnings[DENSE], micro_batches())
  fp8 = Transformer(MOE, ComputeConfig(precision="fp8"), mesh)
  with pytest.raises(ConfigError, match=r"compute.precision is fp8, but with mesh.context above 1"):
    stepped(fp8, beginnings[MOE], micro_batches())
  odd = jax.tree.map(lambda x: x[..., :11], micro_batches())
  with pytest.raises(ConfigError, match=r"rows have 11 tokens; .* by mesh.context, 4"):
    shard_batch(mesh, odd)


def assert_equal(found, expected, where: str):
  """Within 1e-5 of the norm of each array."""
  found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
  difference, size = np.linalg.norm(found - expected), np.linalg.norm(expected)
  assert difference <= 1e-5 * size, f"{where}: {difference / size:.1e}"


@pytest.mark.parametrize(
  ("config", "sizes"),
  [
    pytest.param(MOE, MeshConfig(data=8), id="data8", marks=pytest.mark.slow),
    pytest.param(MOE, MeshConfig(fsdp=8), id="fsdp8"),
    pytest.param(MOE, MeshConfig(data=2, fsdp=2, expert=2), id="data2-fsdp2-expert2"),
    pytest.param(MOE, MeshConfig(expert=4, tensor=2), id="expert4-tensor2"),
    pytest.param(
      MOE,
      MeshConfig(data=2, expert=2, tensor=2),
      id="data2-expert2-tensor2",
      marks=pytest.mark.slow,
    ),
    pytest.param(MOE, MeshConfig(fsdp=2, context=4), id="fsdp2-context4"),  # an odd number on each
    pytest.param(MOE, MeshConfig(expert=2, context=2, tensor=2), id="expert2-context2-tensor2"),
    pytest.param(DENSE, MeshConfig(data=2, tensor=4), id="gqa-data2-tensor4"),
  ],
)
def test_a_step_is_that_of_one_device(config, sizes, beginnings, alone):
  mesh = make_mesh(sizes)
  model = Transformer(config, mesh=mesh)
  state, metrics = stepped(model, beginnings[config], micro_batches())
  expected, expected_metrics = alone[config]
  if config.moe:  # the loads of the whole batch have moved it, up and down
    assert set(np.sign(np.asarray(state.weights.router_bias_LE)).flat) >= {-1.0, 1.0}
  for name, value in expected_metrics.items():
    assert_equal(metrics[name], value, name)
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(expected), strict=True
  )  # the gradients are the state of the optimiser
  for (path, found), value in pairs:
    assert_equal(found, value, jax.tree_util.keystr(path))
  wanted = state_shardings(mesh, state)
  jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(s), state, wanted)


def test_state_is_created_in_shards(newer_emitters):
  key = jax.random.key(0)
  wanted = jax.device_get(jax.jit(create, static_argnums=0)(Transformer(MOE), key))
  mesh = make_mesh(MeshConfig(fsdp=4, expert=2))
  init = functools.partial(create, Transformer(MOE, mesh=mesh))
  state = init_sharded(init, mesh, key)
  gate = state.weights.params["moe"]["ffn"]["gate_EDF"]
  assert {shard.data.shape for shard in gate.addressable_shards} == {(2, 4, 8, 16)}
  assert state.opt_state.trace["moe"]["ffn"]["gate_EDF"].sharding == gate.sharding
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), wanted)


def test_attention_in_blocks_on_a_mesh_is_that_of_one_device(beginnings, alone, monkeypatch):
  monkeypatch.setattr(blockwise, "TILE", 32)  # of which a device has several
  model = Transformer(
    MOE, ComputeConfig(attention_block=5), make_mesh(MeshConfig(fsdp=4, tensor=2))
  )
  state, metrics = stepped(model, beginnings[MOE], micro_batches())
  expected, expected_metrics = alone[MOE]
  assert_equal(metrics["loss"], expected_metrics["loss"], "loss")
  jax.tree.map(lambda x, y: assert_equal(x, y, "gradient"), state.opt_state, expected.opt_state)


def test_absorbed_and_with_adapters_the_ring_gives_the_hidden_states_of_one_device(beginnings):
  """Absorbed attention goes round no ring, and wants its tokens in the order of the text."""
  weights, batch = beginnings[MOE].weights, jax.tree.map(lambda x: x[0], micro_batches())
  tokens = [np.tile(x, 2)[:, :16] for x in (batch.tokens_BT, batch.positions_BT, batch.segments_BT)]
  tokens[1], tokens[2] = np.broadcast_to(np.arange(16), (8, 16)), np.ones((8, 16), np.int32)
  lora = LoRAConfig(rank=2, alpha=4.0)
  adapters = draw_adapters(weights, lora, jax.random.key(1))
  adapters = jax.tree.map(lambda x: x + 0.1, adapters)  # which begin at zero
  adapted = adapt(weights, adapters, lora.scale)
  compute = ComputeConfig(attention_block=4)
  for held, absorbed in ((weights, True), (adapted, False)):
    hidden = []
    for mesh in (make_mesh(MeshConfig(fsdp=2, context=4)), None):
      run = jax.jit(functools.partial(forward, Transformer(MOE, compute, mesh), absorbed=absorbed))
      hidden.append(run(held, *tokens).hidden_BTD)
    assert_equal(*hidden, f"absorbed {absorbed}")


@pytest.mark.slow
def test_a_row_of_32768_tokens_round_a_ring_is_that_of_one_device():
  """Three documents; the first is longer than four devices hold."""
  length = 32_768
  config = dataclasses.replace(MOE, max_context=length)
  rng = np.random.default_rng(2)
  starts = np.array([0, 17_000, 30_001])
  segment = np.searchsorted(starts, np.arange(length), side="right")
  where = np.arange(length) - starts[segment - 1], segment
  tokens = rng.integers(0, MOE.vocab, length)
  arrays = [x.astype(np.int32).reshape(1, 1, length) for x in (tokens, *where)]
  batch = Batch(*arrays, np.ones((1, 1, length), np.float32))
  beginning = jax.device_get(
    jax.jit(create, static_argnums=0)(Transformer(config), jax.random.key(0))
  )
  mesh = make_mesh(MeshConfig(context=8))
  (state, metrics), (wanted, wanted_metrics) = (
    stepped(Transformer(config, mesh=m), beginning, batch) for m in (mesh, None)
  )
  for name, value in wanted_metrics.items():
    assert_equal(metrics[name], value, name)
  for (path, found), value in zip(
    jax.tree_util.tree_leaves_with_path(state.opt_state), jax.tree.leaves(wanted.opt_state)
  ):
    assert_equal(found, value, jax.tree_util.keystr(path))
