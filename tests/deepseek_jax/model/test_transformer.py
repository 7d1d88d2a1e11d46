"""The whole model: causality, packing, padding, and ways to compute that change nothing."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import ComputeConfig
from deepseek_jax.model.block import Block
from deepseek_jax.model.layers import rms_norm
from deepseek_jax.model.transformer import Transformer, forward, head_DV, logits
from deepseek_jax.ops.rope import angles
from deepseek_jax.types import Span, Weights
from tests.traced import named

KINDS = ("v3", "v2", "dense")
T = 10
TOKENS = np.random.default_rng(0).permutation(40)[: 2 * T].reshape(2, T)  # no token twice
POSITIONS = np.tile(np.arange(T), (2, 1))
ONES = np.ones((2, T), np.int32)


def close(got, expected, tolerance=2e-5):
  scale = max(1.0, float(np.abs(expected).max()))
  np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)


@functools.partial(jax.jit, static_argnums=0)
def influence(model, weights):
  """|d hidden_t / d embedding of token s| [T, T], for the first row, along a random direction."""

  def hidden(embed_VD):
    params = {**weights.params, "embed_VD": embed_VD}
    out = forward(
      model, Weights(params, weights.router_bias_LE), TOKENS[:1], POSITIONS[:1], ONES[:1]
    )
    return out.hidden_BTD[0]

  value_TD, pull = jax.vjp(hidden, weights.params["embed_VD"])
  direction_D = jax.random.normal(jax.random.key(0), value_TD.shape[1:])
  one_TTD = jnp.eye(T)[:, :, None] * direction_D
  (grad_TVD,) = jax.vmap(pull)(one_TTD)
  return jnp.abs(grad_TVD[:, TOKENS[0]]).sum(axis=-1)


@pytest.mark.parametrize("kind", ["v3", "dense"])
def test_no_position_depends_on_a_later_token(kind, mini):
  grad_TS = np.asarray(influence(*mini(kind)))
  later = np.triu(np.ones((T, T), bool), 1)
  assert np.all(grad_TS[later] == 0)
  assert np.all(grad_TS[~later] > 0)  # and all depend on all before


@pytest.mark.parametrize("dispatch", ["dense", "capacity"])
def test_later_tokens_change_nothing_before_them(dispatch, mini, run):
  """By value, for experts' slots and overflow are shared by all tokens."""
  model, weights = mini("v3", dispatch=dispatch)
  whole = run(model, weights, TOKENS).hidden_BTD
  for cut in (1, 4, 9):
    changed = TOKENS.copy()
    changed[:, cut:] = 7
    got = run(model, weights, changed).hidden_BTD
    close(got[:, :cut], whole[:, :cut])
    assert not np.allclose(got[:, cut], whole[:, cut], atol=1e-3)


def test_rows_do_not_see_one_another(mini, run):
  model, weights = mini("v3")
  whole = run(model, weights, TOKENS).hidden_BTD
  got = run(model, weights, np.stack([TOKENS[0], TOKENS[0][::-1]])).hidden_BTD
  close(got[0], whole[0])


@pytest.mark.parametrize("kind", KINDS)
def test_documents_in_one_row_equal_documents_apart(kind, mini, run):
  """Lengths 4, 3 and padding in row 0; 1, 9 in row 1."""
  model, weights = mini(kind)
  segments = np.array([[1] * 4 + [2] * 3 + [0] * 3, [1] + [2] * 9])
  positions = np.array([[*range(4), *range(3), *range(3)], [0, *range(9)]])
  packed = run(model, weights, TOKENS, positions, segments)
  alone = np.zeros((4, T), int)
  apart = ((0, 0, 4), (0, 4, 7), (1, 0, 1), (1, 1, 10))
  for i, (row, start, stop) in enumerate(apart):
    alone[i, : stop - start] = TOKENS[row, start:stop]
  outs = [run(model, weights, alone[i : i + 2]) for i in (0, 2)]  # in a shape compiled already
  hidden = np.concatenate([out.hidden_BTD for out in outs])
  for i, (row, start, stop) in enumerate(apart):
    close(packed.hidden_BTD[row, start:stop], hidden[i, : stop - start])
  if model.config.moe:
    np.testing.assert_array_equal(
      packed.routing.experts_LBTA[:, 0, 4:7], outs[0].routing.experts_LBTA[:, 1, :3]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_documents_that_run_on_in_one_segment_see_one_another(kind, mini, run):
  """V3's own packing: one segment, positions running on; only distances count to rotation."""
  model, weights = mini(kind)
  whole = run(model, weights, TOKENS).hidden_BTD
  shifted = run(model, weights, TOKENS, POSITIONS + 100, 3 * ONES).hidden_BTD
  close(shifted, whole, 2e-4)


def test_padding_is_not_counted_and_not_seen(mini, run):
  model, weights = mini("v3")
  segments = np.where(np.arange(T) < [[6], [9]], 1, 0)
  out = run(model, weights, TOKENS, POSITIONS, segments)
  other = np.where(segments > 0, TOKENS, 3)
  changed = run(model, weights, other, POSITIONS, segments)
  valid = segments > 0
  close(changed.hidden_BTD[valid], out.hidden_BTD[valid])
  for name in ("load_LE", "balance_L"):
    np.testing.assert_allclose(
      getattr(changed.routing, name), getattr(out.routing, name), rtol=1e-5
    )
  load_LE, experts_LBTA = out.routing.load_LE, np.asarray(out.routing.experts_LBTA)
  assert load_LE.shape == (2, 8)
  for row, experts_BTA in zip(load_LE, experts_LBTA):
    np.testing.assert_array_equal(row, np.bincount(experts_BTA[valid].ravel(), minlength=8))
  np.testing.assert_array_equal(load_LE.sum(axis=1), 15 * 2)


def test_a_model_without_experts_reports_no_routing(mini, run):
  routing = run(*mini("dense"), TOKENS).routing
  assert routing.load_LE.shape == (0, 0)
  assert routing.balance_L.shape == (0,)
  assert routing.experts_LBTA.shape == (0, 2, T, 0)


@pytest.mark.parametrize("whole_groups", [False, True])
@pytest.mark.parametrize("kind", ["v3", "v2"])
def test_renaming_experts_changes_nothing(kind, whole_groups, mini, run):
  """Within a group, or whole groups, in every layer: with router columns, bias and matrices."""
  model, weights = mini(kind)
  grid = np.arange(8).reshape(4, 2)
  order = (grid[[2, 0, 3, 1]] if whole_groups else grid[:, ::-1]).reshape(-1)
  axes = {"router_DE": 2, "gate_EDF": 1, "up_EDF": 1, "down_EFD": 1}

  def rename(path, leaf):
    names = [k.key for k in path]
    if names[-1] not in axes or names[0] != "moe":
      return leaf
    return np.take(leaf, order, axis=axes[names[-1]])

  params = jax.tree_util.tree_map_with_path(rename, weights.params)
  renamed = Weights(params, weights.router_bias_LE[:, order])
  expected, got = run(model, weights, TOKENS), run(model, renamed, TOKENS)
  close(got.hidden_BTD, expected.hidden_BTD)
  np.testing.assert_array_equal(got.routing.load_LE, expected.routing.load_LE[:, order])
  np.testing.assert_allclose(got.routing.balance_L, expected.routing.balance_L, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(model, weights):
  def loss(params):
    out = forward(model, Weights(params, weights.router_bias_LE), TOKENS, POSITIONS, ONES)
    picked = jnp.sin(3 * out.hidden_BTD).sum() + out.routing.balance_L.sum()
    return picked, out

  grads, out = jax.grad(loss, has_aux=True)(weights.params)
  return out.hidden_BTD, out.routing.balance_L, grads


@pytest.mark.parametrize(
  "compute",
  [
    {"remat": "full", "dispatch": "dense"},
    {"remat": "dots", "dispatch": "capacity", "attention_block": 4},
  ],
  ids=str,
)
def test_ways_to_compute_give_the_same_values_and_gradients(compute, mini):
  expected = jax.device_get(loss_and_gradients(*mini("experts", dispatch="dense")))
  got = jax.device_get(loss_and_gradients(*mini("experts", **compute)))
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
    close(x, y)


def test_every_parameter_has_a_gradient_in_float32(mini):
  grads = jax.device_get(loss_and_gradients(*mini("experts", dispatch="dense"))[2])
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    assert leaf.dtype == jnp.float32
    assert np.any(leaf) or path[0].key in ("head_DV", "mtp_0", "mtp_1"), path  # not in this loss


def test_remat_policies_recompute_what_they_say(mini):
  def products(remat):  # not unrolled, as "full" never is
    model, weights = mini("experts", remat=remat, unroll=0)
    step = functools.partial(loss_and_gradients.__wrapped__, model)
    found = [eqn.params["dimension_numbers"][1] for eqn in named("dot_general", step, weights)]
    return found.count(((), ())), sum(batched != ((), ()) for batched in found)

  (weights, attention), dots, full = map(products, ("none", "dots", "full"))
  assert dots == (weights, full[1])  # keeps the products of weights, not those of attention
  assert full[0] > weights and full[1] > attention


@pytest.mark.parametrize("kind", ["v3", "dense"])
def test_bfloat16_is_close_and_keeps_float32_routing(kind, mini, run):
  model, weights = mini(kind)
  tokens = np.random.default_rng(0).integers(0, model.config.vocab, (24, 10))  # two may be unlucky
  exact = run(model, weights, tokens)
  half = run(mini(kind, dtype="bfloat16").model, weights, tokens)
  assert half.hidden_BTD.dtype == jnp.bfloat16
  assert half.routing.load_LE.dtype == half.routing.balance_L.dtype == jnp.float32
  # Where the same experts were chosen all the way; elsewhere rounding may choose others.
  same = np.all(np.asarray(half.routing.experts_LBTA == exact.routing.experts_LBTA), axis=(0, 3))
  same = np.logical_and.accumulate(same, axis=1)  # an earlier token reaches later ones
  assert same.mean() > 0.5
  error = np.asarray(half.hidden_BTD, np.float32) - np.asarray(exact.hidden_BTD)
  assert np.abs(error[same]).mean() < 0.02 * np.abs(exact.hidden_BTD).mean()


@functools.partial(jax.jit, static_argnums=(0, 1))
def one_block(config, experts, params, x_BTD, bias_E):
  span = Span(POSITIONS, ONES)
  block = Block(config, ComputeConfig(), None, experts)
  dim = getattr(config.attention, "rope_dim", None) or config.attention.head_dim
  rotation = angles(config.rope, dim, POSITIONS)
  return block.apply({"params": params}, x_BTD, bias_E, None, rotation, span, span, None)[0]


@pytest.mark.parametrize("kind", ["v3", "dense"])
def test_scanned_layers_equal_blocks_after_one_another(kind, mini, run):
  model, weights = mini(kind)
  config, params = model.config, weights.params
  x_BTD = params["embed_VD"][TOKENS]
  for stack, count in (("dense", config.dense_layers), ("moe", config.expert_layers)):
    for layer in range(count):
      own = jax.tree.map(lambda w: w[layer], params[stack])  # noqa: B023
      bias_E = weights.router_bias_LE[layer] if stack == "moe" else None
      x_BTD = one_block(config, stack == "moe", own, x_BTD, bias_E)
  expected = rms_norm(x_BTD, params["norm_D"], config.norm_eps)
  close(run(model, weights, TOKENS).hidden_BTD, expected)


def test_a_tied_head_is_the_embedding_transposed(mini, run):
  model, weights = mini("dense")
  assert "head_DV" not in weights.params
  expected = run(model, weights, TOKENS).hidden_BTD @ weights.params["embed_VD"].T
  close(jax.jit(logits, static_argnums=0)(model, weights, jnp.asarray(TOKENS)), expected)


def test_the_head_comes_in_the_compute_dtype(mini):
  model, weights = mini("v3", dtype="bfloat16")
  assert head_DV(model, weights).dtype == jnp.bfloat16
  assert weights.params["head_DV"].dtype == jnp.float32


def test_router_biases_steer_each_layer_by_its_own_row(mini, run):
  """Large biases on one pair of experts of a group: each layer follows its row."""
  model, weights = mini("v3")
  bias_LE = np.zeros((3, 8), np.float32)
  bias_LE[0, 2:4] = bias_LE[1, 6:8] = 50
  experts_LBTA = run(model, Weights(weights.params, bias_LE), TOKENS).routing.experts_LBTA
  assert np.all(np.asarray(experts_LBTA[0]) == [2, 3])
  assert np.all(np.asarray(experts_LBTA[1]) == [6, 7])


def test_models_are_equal_and_hashable_by_configuration(mini):
  """So that a jitted function with a static model compiles once per configuration."""
  config = mini("v3").model.config
  assert hash(Transformer(config)) == hash(Transformer(dataclasses.replace(config)))
  assert Transformer(config) == Transformer(dataclasses.replace(config))
  assert Transformer(config) != Transformer(config, ComputeConfig(remat="full"))
