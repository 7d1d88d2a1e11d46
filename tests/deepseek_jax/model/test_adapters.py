"""Adapted models of every kind, against their merged weights and against the dense gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.model import adapters
from deepseek_jax.model.adapters import LoRAConfig
from deepseek_jax.model.layered import unstack
from deepseek_jax.model.transformer import forward, mtp_hidden
from deepseek_jax.ops.low_rank import LowRank, sizes
from tests.deepseek_jax.model.conftest import KINDS

RANK = 3
TOKENS_BT = np.random.default_rng(7).integers(0, 40, (2, 7))
STILL = ("speed", 0.0)


def adapted(mini, moved=True, **changes):
  """The weights with adapters: of both signs and sizes that tell, or as they begin."""
  config = LoRAConfig(rank=RANK, **changes)
  drawn = jax.device_get(adapters.draw_adapters(mini.weights, config, jax.random.key(0)))
  if moved:
    rng = np.random.default_rng(1)
    drawn = jax.tree.map(lambda x: (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32), drawn)
  return adapters.adapt(mini.weights, drawn, config.scale)


def test_a_page_says_what_is_trained():
  assert adapters.told(None) == "all weights"
  told = adapters.told(LoRAConfig(rank=4, alpha=8.0, targets="q,v"))
  assert told == "adapters of rank 4 and alpha 8 on q,v"


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_it_is_the_base_exactly(kind, mini, run):
  base = mini(kind)
  weights = adapted(base, moved=False)
  found, wanted = run(base.model, weights, TOKENS_BT), run(base.model, base.weights, TOKENS_BT)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  assert adapters.is_adapted(weights.params) and not adapters.is_adapted(base.weights.params)


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_its_merged_weights_do(kind, mini, run, run_mtp):
  base = mini(kind)
  weights = adapted(base)
  merged = jax.device_get(adapters.merged(weights))
  found, wanted = run(base.model, weights, TOKENS_BT), run(base.model, merged, TOKENS_BT)
  np.testing.assert_allclose(found.hidden_BTD, wanted.hidden_BTD, rtol=1e-4, atol=1e-4)
  before = run(base.model, base.weights, TOKENS_BT)
  assert np.abs(found.hidden_BTD - before.hidden_BTD).max() > 0.1, "the adapters must tell"
  if base.model.config.mtp_depth:
    ours, theirs = (run_mtp(base.model, w, TOKENS_BT)[0] for w in (weights, merged))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_layers_apart_and_absorbed_attention_are_the_same(mini, run):
  base = mini("v3")
  weights = adapted(base)
  wanted = run(base.model, weights, TOKENS_BT).hidden_BTD
  apart = unstack(base.model.config, weights)
  for options in ({}, {"absorbed": True}):
    found = run(base.model, apart, TOKENS_BT, **options).hidden_BTD
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_dense_ones_by_the_chain_rule(kind, mini):
  """Of every adapted matrix of the model, its MTP modules included."""
  base = mini(kind)
  weights = adapted(base)
  weights, merged = jax.device_get((weights, adapters.merged(weights)))
  found, dense = jax.device_get([_gradients(base.model, w) for w in (weights, merged)])
  count = 0
  for path, a, b in _pairs(adapters.trained(weights.params)):
    dense_leaf, ours = _at(dense, path), _at(found, path)
    stack, inputs, outputs = sizes(path[-1], dense_leaf.shape)
    dw = np.asarray(dense_leaf, np.float64).reshape(*stack, inputs, outputs)
    scale = LoRAConfig(rank=RANK).scale
    da, db = scale * dw @ np.swapaxes(b, -1, -2), scale * np.swapaxes(a, -1, -2) @ dw
    tolerance = 2e-4 * max(np.abs(da).max(), np.abs(db).max()) + 1e-6
    np.testing.assert_allclose(ours["a_IY"], da, atol=tolerance, err_msg=str(path))
    np.testing.assert_allclose(ours["b_YO"], db, atol=tolerance, err_msg=str(path))
    assert np.abs(da).max() > 0 and np.abs(db).max() > 0, path
    count += 1
  assert count == sum(isinstance(x, LowRank) for x in _leaves(weights.params))
  assert set(_leaves_by_name(found)) == {"a_IY", "b_YO"}


def test_merging_and_switching_off_leave_the_base_as_it_is(mini):
  base = mini("v3")
  weights = adapted(base)
  off = adapters.base_of(weights)
  same = jax.tree.map(lambda x, y: x is y, off, base.weights)
  assert all(jax.tree.leaves(same)), "the very arrays, not copies"
  merged = adapters.merged(weights)
  for path, leaf in jax.tree_util.tree_leaves_with_path(merged.params):
    names = [key.key for key in path]
    original = _at(base.weights.params, names)
    is_target = isinstance(_at(weights.params, names), LowRank)
    assert is_target != np.array_equal(leaf, original), names
  np.testing.assert_array_equal(merged.router_bias_LE, base.weights.router_bias_LE)


@pytest.mark.parametrize(
  ("kind", "targets", "names"),
  [
    ("dense", "q,v", {"q_DHK", "v_DGK"}),
    ("dense", "attention", {"q_DHK", "k_DGK", "v_DGK", "out_HKD"}),
    ("v3", "feed_forward", {"gate_DF", "up_DF", "down_FD"}),
    ("v3", "q_up, kv_down", {"q_up_QHK", "kv_down_DC"}),
    ("v2", "attention", {
      "q_up_DHK", "q_rope_DHR", "kv_down_DC", "k_rope_DR", "k_up_CHK", "v_up_CHU", "out_HUD",
    }),
  ],
)  # fmt: skip
def test_targets_are_groups_and_names(kind, targets, names, mini):
  base = mini(kind)
  params = adapters.trained(adapted(base, targets=targets).params)
  assert {path[-1] for path, _, _ in _pairs(params)} == names
  total = sum(1 for path, _ in _named(base.weights.params) if path[-1] in names)
  assert len(list(_pairs(params))) == total, "in every stack, and in the MTP module"


def test_routed_experts_routers_embedding_and_head_are_never_among_them(mini):
  names = {path[-1] for path, _, _ in _pairs(adapters.trained(adapted(mini("v3")).params))}
  assert not names & {
    "gate_EDF", "up_EDF", "down_EFD", "router_DE", "embed_VD", "head_DV", "merge_WD",
  }  # fmt: skip


@pytest.mark.parametrize(
  ("kind", "fields", "told"),
  [
    (
      "v3",
      {"targets": "q_proj"},
      "lora.targets has 'q_proj'.*use some of attention, feed_forward, k_rope",
    ),
    ("v3", {"targets": "attention,"}, "lora.targets has ''"),
    ("v3", {"targets": "router"}, "lora.targets has 'router'"),
    ("v3", {"rank": 5}, "lora.rank is 5, but dense/attention/k_rope_DR is a matrix of 24 x 4; lo"),
    ("dense", {"rank": 13, "targets": "q,v"}, "lora.rank is 13, but dense/attention/v_DGK"),
  ],
)
def test_what_the_model_has_not_or_cannot_take_is_refused(kind, fields, told):
  with pytest.raises(ConfigError, match=told):
    adapters.check_adapters(LoRAConfig(**fields), KINDS[kind], "base", STILL)


@pytest.mark.parametrize("fields", [{"rank": 0}, {"alpha": 0.0}, {"base": "int4"}])
def test_impossible_fields_are_named(fields):
  with pytest.raises(ConfigError, match=f"lora.{next(iter(fields))} is"):
    LoRAConfig(**fields)


def test_a_rank_that_just_fits_is_taken_and_a_moving_router_is_not():
  adapters.check_adapters(LoRAConfig(rank=4), KINDS["v3"], "base", STILL)
  with pytest.raises(ConfigError, match="rl.bias_speed is 0.001; .* set it to 0"):
    adapters.check_adapters(LoRAConfig(rank=4), KINDS["v3"], "base", ("rl.bias_speed", 1e-3))
  adapters.check_adapters(LoRAConfig(rank=4), KINDS["dense"], "base", ("rl.bias_speed", 1e-3))
  with pytest.raises(ConfigError, match="--config.init"):
    adapters.check_adapters(LoRAConfig(rank=4), KINDS["dense"], "", STILL)


@functools.partial(jax.jit, static_argnums=0)
def _gradients(model, weights):
  """Of a loss in which every layer and MTP module counts, with respect to what is trained."""

  def loss(moving):
    moved, tokens, span = adapters.with_trained(weights, moving), jnp.asarray(TOKENS_BT), _span()
    out = forward(model, moved, tokens, *span)
    total = jnp.sum(jnp.sin(out.hidden_BTD))
    if model.config.mtp_depth:
      total += jnp.sum(jnp.sin(mtp_hidden(model, moved, out.hidden_BTD, tokens, *span)[0]))
    return total

  return jax.grad(loss)(adapters.trained(weights.params))


def _span():
  positions_BT = jnp.broadcast_to(jnp.arange(TOKENS_BT.shape[1]), TOKENS_BT.shape)
  return positions_BT, jnp.ones_like(positions_BT)


def _pairs(params, path=()):
  """Path, A and B of all adapters."""
  if "a_IY" in params:
    yield path, params["a_IY"], params["b_YO"]
    return
  for name, inner in params.items():
    yield from _pairs(inner, (*path, name))


def _named(params, path=()):
  for name, inner in params.items():
    if isinstance(inner, dict):
      yield from _named(inner, (*path, name))
    else:
      yield (*path, name), inner


def _leaves(params):
  return [leaf for _, leaf in _named(params)]


def _leaves_by_name(params):
  return [path[-1] for path, _ in _named(params)]


def _at(params, path):
  return functools.reduce(lambda inner, name: inner[name], path, params)
