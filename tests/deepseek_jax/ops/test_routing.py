"""Routing equals a slow routine in plain Python, and keeps its symmetries."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import MoEConfig
from deepseek_jax.ops import routing

V3 = MoEConfig(experts=16, top_k=4, expert_ff=8, groups=4, top_groups=2, scale=2.5)
V2 = MoEConfig(
  experts=12, top_k=3, expert_ff=8, groups=4, top_groups=2, scoring="softmax", group_score="max",
  selection_bias=False, normalize=False, scale=16.0,
)  # fmt: skip
V2_LITE = dataclasses.replace(V2, groups=1, top_groups=1, scale=1.0)
CONFIGS = {"v3": V3, "v2": V2, "v2_lite": V2_LITE}
N = 40


@functools.partial(jax.jit, static_argnums=2)
def route(logits_NE, bias_E, config):
  routed = routing.route(logits_NE, bias_E, config)
  return routing.affinities(logits_NE, config), routed.experts_NA, routed.weights_NA


def slow_scores(logits_NE, config):
  logits = np.asarray(logits_NE, np.float64)
  if config.scoring == "sigmoid":
    return 1 / (1 + np.exp(-logits))
  e = np.exp(logits - logits.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def slow_route(logits_NE, bias_E, config):
  """Token by token, as the papers say it: sorting lists, excluding by omission."""
  experts_NA, weights_NA = [], []
  size = config.experts // config.groups
  for s in slow_scores(logits_NE, config):
    choice = s + bias_E if config.selection_bias else s
    best = []
    for z in range(config.groups):
      ranked = sorted(choice[z * size : (z + 1) * size], reverse=True)
      best.append(ranked[0] + ranked[1] if config.group_score == "top2" else ranked[0])
    groups = sorted(range(config.groups), key=lambda z: -best[z])[: config.top_groups]
    candidates = [e for e in range(config.experts) if e // size in groups]
    chosen = sorted(sorted(candidates, key=lambda e: -choice[e])[: config.top_k])
    w = s[chosen]
    experts_NA.append(chosen)
    weights_NA.append(config.scale * (w / w.sum() if config.normalize else w))
  return np.array(experts_NA), np.array(weights_NA)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shift", [0.0, -3.0, 3.0])  # biases of both signs, all below, all above
def test_equals_the_slow_routine(name, seed, shift):
  config = CONFIGS[name]
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(N, config.experts)) * 2
  bias = rng.normal(size=config.experts) + shift
  logits, bias = logits.astype(np.float32), bias.astype(np.float32)
  scores, experts, weights = route(logits, bias, config)
  expected_experts, expected_weights = slow_route(logits, bias, config)
  np.testing.assert_allclose(scores, slow_scores(logits, config), atol=1e-6)
  np.testing.assert_array_equal(experts, expected_experts)
  np.testing.assert_allclose(weights, expected_weights, rtol=1e-5)


def test_excluded_groups_stay_excluded_where_biased_scores_are_negative():
  """With zeros for the excluded, as some code has it, all four choices would fall outside."""
  logits = jnp.zeros((1, 16))
  bias = jnp.asarray([-1.0] * 4 + [-2.0] * 4 + [-3.0] * 8)
  _, experts, _ = route(logits, bias, V3)
  assert experts.tolist() == [[0, 1, 2, 3]]
  bias = bias.at[jnp.array([1, 2])].set(-9.0)  # the best groups stay, for two experts' sake
  _, experts, _ = route(logits, bias, V3)
  assert experts.tolist() == [[0, 3, 4, 5]]


def test_a_group_is_as_good_as_its_two_best():
  scores = jnp.asarray([[0.9, 0.1, 0.6, 0.6, 0.5, 0.55, 0.7, 0.2]])
  logits = jnp.log(scores / (1 - scores))
  config = MoEConfig(experts=8, top_k=2, expert_ff=8, groups=4, top_groups=1)
  assert routing.route(logits, jnp.zeros(8), config).experts_NA.tolist() == [[2, 3]]
  best = dataclasses.replace(config, group_score="max")
  assert routing.route(logits, jnp.zeros(8), best).experts_NA.tolist() == [[0, 1]]


@pytest.mark.parametrize("name", CONFIGS)
def test_choices_are_distinct_ascending_and_within_the_groups(name):
  config = CONFIGS[name]
  logits = np.random.default_rng(7).normal(size=(N, config.experts)).astype(np.float32)
  _, experts, _ = route(logits, np.zeros(config.experts, np.float32), config)
  assert np.all(np.diff(experts) > 0)
  groups = np.asarray(experts) // (config.experts // config.groups)
  assert max(len(set(row)) for row in groups.tolist()) <= config.top_groups


def test_ties_go_to_the_lower_index():
  _, experts, _ = route(jnp.zeros((2, 16)), jnp.zeros(16), V3)
  assert experts.tolist() == [[0, 1, 2, 3]] * 2


def test_the_bias_selects_and_does_nothing_else():
  """Bringing in another expert by bias gives it its own affinity as weight; no gradient flows."""
  logits = jnp.asarray(np.random.default_rng(3).normal(size=(N, 16)), jnp.float32)
  bias = jnp.zeros(16).at[5].set(100.0)
  scores, experts, weights = route(logits, bias, V3)
  assert np.all((np.asarray(experts) == 5).any(axis=1))
  chosen = np.take_along_axis(np.asarray(scores), np.asarray(experts), axis=1)
  np.testing.assert_allclose(weights, 2.5 * chosen / chosen.sum(1, keepdims=True), rtol=1e-5)
  grad = jax.grad(lambda b: (route(logits, b, V3)[2] ** 2).sum())(bias)
  assert not np.any(grad)
  grad = jax.grad(lambda x: (route(x, bias, V3)[2] ** 2).sum())(logits)
  assert np.all(np.any(np.asarray(grad) != 0, axis=1))


def test_a_router_without_bias_ignores_it():
  logits = jnp.asarray(np.random.default_rng(4).normal(size=(N, 12)), jnp.float32)
  for got, expected in zip(route(logits, jnp.arange(12.0), V2), route(logits, jnp.zeros(12), V2)):
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("whole_groups", [False, True])
def test_renaming_experts_within_a_group_or_whole_groups_renames_the_choices(name, whole_groups):
  config = CONFIGS[name]
  rng = np.random.default_rng(5)
  logits = rng.normal(size=(N, config.experts)).astype(np.float32)
  bias = rng.normal(size=config.experts).astype(np.float32)
  grid = np.arange(config.experts).reshape(config.groups, -1)
  grid = grid[rng.permutation(config.groups)] if whole_groups else rng.permuted(grid, axis=1)
  order = grid.reshape(-1)  # new name -> old name
  _, experts, weights = route(logits, bias, config)
  _, renamed, moved = route(logits[:, order], bias[order], config)
  for n in range(N):
    old = dict(zip(np.asarray(experts[n]).tolist(), np.asarray(weights[n]).tolist()))
    new = dict(zip(order[np.asarray(renamed[n])].tolist(), np.asarray(moved[n]).tolist()))
    assert new == pytest.approx(old, rel=1e-5)


def test_bfloat16_logits_are_scored_in_float32():
  logits = jnp.asarray(np.random.default_rng(6).normal(size=(4, 8)), jnp.bfloat16)
  for config in CONFIGS.values():
    got = routing.affinities(logits, config)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, routing.affinities(logits.astype(jnp.float32), config))


def test_load_counts_tokens_and_not_padding():
  experts = jnp.asarray([[0, 2], [0, 1], [1, 2], [0, 2]])
  chosen = routing.chosen_mask(experts, 4)
  assert chosen.sum() == 8
  assert routing.load(chosen, jnp.ones(4, bool)).tolist() == [3, 2, 3, 0]
  assert routing.load(chosen, jnp.array([True, False, True, False])).tolist() == [1, 1, 2, 0]
  assert routing.load(chosen, jnp.zeros(4, bool)).tolist() == [0, 0, 0, 0]


def slow_balance(scores_BTE, valid_BT, top_k):
  """2412.19437, equations 17 to 20, row by row."""
  losses = []
  for scores, valid in zip(np.asarray(scores_BTE, np.float64), np.asarray(valid_BT)):
    rows, E = scores[valid], scores.shape[-1]
    if len(rows):
      best = [set(np.argsort(-s, kind="stable")[:top_k]) for s in rows]
      f = [E / (top_k * len(rows)) * sum(i in b for b in best) for i in range(E)]
      p = (rows / rows.sum(-1, keepdims=True)).mean(0)
      losses.append(np.dot(f, p))
  return np.mean(losses) if losses else 0.0


balance = jax.jit(routing.balance_loss, static_argnums=2)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("config", [V3, V2])
def test_balance_loss_equals_its_equations(seed, config):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(3, 12, 8)) * 2 + rng.normal(size=8)
  scores = routing.affinities(jnp.asarray(logits, jnp.float32), config)
  valid = rng.random((3, 12)) < 0.7
  valid[seed % 3] = seed % 2  # also rows all of padding, and without any
  assert balance(scores, valid, 3) == pytest.approx(slow_balance(scores, valid, 3), rel=1e-5)


def test_balance_loss_of_padding_alone_is_zero_with_zero_gradient():
  scores, valid = jnp.full((3, 12, 8), 0.5), jnp.zeros((3, 12), bool)
  value, grad = jax.value_and_grad(balance)(scores, valid, 3)
  assert value == 0
  assert not np.any(grad)


def test_balance_loss_ignores_what_padding_holds():
  rng = np.random.default_rng(1)
  scores = rng.random((3, 12, 8)).astype(np.float32)
  valid = np.arange(12) < np.array([[5], [12], [8]])
  other = np.where(valid[..., None], scores, rng.random(scores.shape).astype(np.float32))
  assert balance(scores, valid, 3) == balance(other, valid, 3)
  grad = jax.grad(balance)(jnp.asarray(scores), valid, 3)
  assert not np.any(np.asarray(grad)[~valid])
  assert np.any(np.asarray(grad)[valid])


def test_balance_loss_is_one_when_even_and_grows_with_favour():
  """Token t prefers experts t and t + 1 of 8: over 16 tokens all are equally often chosen."""
  t = np.arange(16)
  scores = np.full((1, 16, 8), 0.1, np.float32)
  scores[0, t, t % 8] = scores[0, t, (t + 1) % 8] = 0.9
  valid = np.ones((1, 16), bool)
  assert balance(scores, valid, 2) == pytest.approx(1, rel=1e-6)
  scores[0, :, 0] = scores[0, :, 1] = 0.95
  favoured = balance(scores, valid, 2)
  assert favoured > 1.5
  only_two = np.zeros((1, 16, 8), np.float32)
  only_two[0, :, :2] = 0.9
  assert balance(only_two, valid, 2) == pytest.approx(4, rel=1e-6)  # E / A, the most there is


def test_descending_the_balance_loss_lowers_the_favoured_affinity():
  scores = jnp.full((1, 6, 4), 0.3).at[:, :, 0].set(0.8)
  grad = jax.grad(balance)(scores, jnp.ones((1, 6), bool), 1)
  assert np.all(grad[..., 0] > 0)
  assert np.all(grad[..., 1:] < 0)


def test_overloaded_experts_sink_and_underloaded_ones_rise():
  bias = jnp.asarray([[0.5, -0.5, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0]])
  load = jnp.asarray([[9.0, 3.0, 6.0, 6.0], [4.0, 4.0, 4.0, 4.0]])
  new = routing.bias_update(bias, load, jnp.float32(0.01))
  np.testing.assert_allclose(new, [[0.49, -0.49, 0.0, 0.1], [0, 0, 0, 0]], atol=1e-7)
  np.testing.assert_array_equal(routing.bias_update(bias, load, jnp.float32(0)), bias)


def test_the_bias_rule_evens_out_a_lopsided_router():
  """2408.15664: the rule alone, with fixed affinities, removes most of the violation."""
  rng = np.random.default_rng(2)
  logits = (rng.normal(size=(400, 16)) + rng.normal(size=16)).astype(np.float32)

  @jax.jit
  def violation_and_bias(bias):
    chosen = routing.chosen_mask(routing.route(logits, bias, V3).experts_NA, 16)
    load = routing.load(chosen, jnp.ones(400, bool))[None]
    return routing.max_violation(load)[0], routing.bias_update(bias[None], load, 0.01)[0]

  bias, seen = jnp.zeros(16), []
  for _ in range(100):
    violation, bias = violation_and_bias(bias)
    seen.append(float(violation))
  assert seen[0] > 1
  assert np.mean(seen[-10:]) < 0.25


def test_max_violation():
  load = jnp.asarray([[2.0, 2.0, 2.0, 2.0], [8.0, 0.0, 0.0, 0.0], [3.0, 1.0, 2.0, 2.0], [0.0] * 4])
  np.testing.assert_allclose(routing.max_violation(load), [0, 3, 0.5, 0], atol=1e-6)
