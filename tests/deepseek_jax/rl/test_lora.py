"""Reinforcement of adapters: their base is the reference, and what samples is what trains."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.model import adapters
from deepseek_jax.model.adapters import LoRAConfig
from deepseek_jax.rl.grpo_job import grpo_job
from deepseek_jax.sharding import MeshConfig, make_mesh, state_shardings
from deepseek_jax.train.loop import Position
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.state import init_state
from tests.deepseek_jax.rl.bandit import CONFIG, compile_parts, iterate, make_stage
from tests.deepseek_jax.train.adapted import MODELS, write_base

LORA = LoRAConfig(rank=4)
TX = make_optimizer(OptimizerConfig(weight_decay=0.0))
ITERATIONS = 5


def begin(weights):
  weights = jax.tree.map(jnp.array, weights)
  drawn = adapters.draw_adapters(weights, LORA, jax.random.key(3))
  return init_state(adapters.adapt(weights, drawn, LORA.scale), TX)


@pytest.fixture(scope="module")
def reinforced():
  """A stage with KL on, of five iterations of two updates, and what came of it."""
  compiled = compile_parts()
  config = dataclasses.replace(CONFIG, kl_weight=0.05, reference_every=0, bias_speed=0.0)
  stage = make_stage(compiled, config=config, iterations=ITERATIONS)
  first = jax.device_get(begin(compiled["weights"]))
  state, records = iterate(stage, begin(compiled["weights"]), 0, ITERATIONS)
  return SimpleNamespace(
    stage=stage, base=compiled["weights"], first=first, state=state, records=records
  )


def test_sampler_and_trainer_agree_while_the_adapters_move(reinforced):
  moving = adapters.trained(reinforced.state.weights.params)
  assert min(np.abs(x).max() for x in jax.tree.leaves(moving)) > 1e-2
  assert len(reinforced.records) == ITERATIONS
  for record in reinforced.records:
    assert 0 <= record["mismatch"] < 1e-4


def test_the_divergence_from_the_base_is_nothing_at_first_and_then_grows(reinforced):
  """Of an iteration's updates the first has the base for its policy."""
  stage, first = reinforced.stage, jax.tree.map(jnp.array, reinforced.first)
  fed = stage.feed(Position(), first)
  placed = stage._placed(fed.batch[1].updates[0], stage._reference(first))
  knobs = dataclasses.replace(fed.knobs, micro_batches=placed.micro_batches)
  _, metrics = stage.update(first, placed.batch, knobs)
  assert abs(float(metrics["kl"])) < 1e-9
  assert reinforced.records[-1]["kl"] > 1e-4


def test_the_reference_is_the_base_itself_without_a_copy(reinforced):
  stage, state = reinforced.stage, reinforced.state
  assert state.reference is None
  reference = stage._reference(state)
  held = jax.tree.leaves(adapters.base_of(state.weights))
  assert all(a is b for a, b in zip(jax.tree.leaves(reference), held, strict=True))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(reference), reinforced.base)
  fed = stage.feed(Position(step=1), state)
  update = fed.batch[1].updates[0]
  placed = stage._placed(update, reference)
  mask = update.batch.batch.loss_mask_BT > 0
  by_base = stage.score(reinforced.base, update.batch.batch, update.micro_batches) * mask
  np.testing.assert_array_equal(placed.batch.ref_logprob_BT, by_base)
  by_policy = stage.score(state.weights, update.batch.batch, update.micro_batches) * mask
  assert np.abs(by_policy - by_base).max() > 1e-3


def test_without_kl_there_is_no_reference(reinforced):
  config = dataclasses.replace(reinforced.stage.config, kl_weight=0.0)
  stage = dataclasses.replace(reinforced.stage, config=config)
  assert stage._reference(reinforced.state) is None


def test_adapters_learn_the_task(reinforced):
  assert reinforced.records[-1]["correct"] > reinforced.records[0]["correct"] + 0.1


def test_an_engine_samples_from_the_merged_model(reinforced):
  weights = reinforced.state.weights
  prepared = SlotEngine(reinforced.stage.engine.model, slots=32)._prepared(weights)
  assert not adapters.is_adapted(prepared.params)
  merged = adapters.merged(weights)
  layer = prepared.params["layer_0"]["attention"]["kv_down_DC"].outputs_first
  np.testing.assert_allclose(
    layer, merged.params["moe"]["attention"]["kv_down_DC"][0].T, rtol=1e-6, atol=1e-6
  )


def test_on_a_mesh_adapters_are_whole_on_every_device(reinforced):
  mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4])
  state = begin(reinforced.base)
  where = state_shardings(mesh, state)
  placed = jax.device_put(state, where)
  w = placed.weights.params["moe"]["attention"]["kv_down_DC"]
  assert w.a_IY.sharding.is_fully_replicated and w.b_YO.sharding.is_fully_replicated
  assert not w.base.sharding.is_fully_replicated
  mu = next(s for s in placed.opt_state if hasattr(s, "mu")).mu
  assert mu["moe"]["attention"]["kv_down_DC"]["a_IY"].sharding.is_fully_replicated


VALUES = {
  "rl": {"rollout": {"prompts": 2, "group": 2, "max_new": 8, "width": 24, "rows": 2}},
  "train": {"steps": 1},
  "lora": {"rank": 4},
}


def test_a_jobs_router_stands_still_unless_told_and_then_it_is_refused(tmp_path):
  values = {**VALUES, "init": str(write_base(tmp_path / "base", MODELS["v3"]))}
  assert grpo_job(values).rl.bias_speed == 0
  assert grpo_job({**values, "lora": None}).rl.bias_speed > 0
  for fields, told in (
    ({"bias_speed": 1e-3}, "rl.bias_speed is 0.001"),
    ({"kl_weight": 0.1, "reference_every": 2}, "rl.reference_every is 2, but the reference"),
  ):
    with pytest.raises(ConfigError, match=told):
      grpo_job({**values, "rl": {**values["rl"], **fields}})
