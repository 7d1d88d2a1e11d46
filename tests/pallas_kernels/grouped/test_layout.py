"""Where rows stand: a stable sort with aligned groups, and its inverse."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.grouped import layout as layouts
from pallas_kernels.grouped import tpu

arrange = jax.jit(layouts.arrange, static_argnums=1)
steps = jax.jit(tpu.steps)
CHOICES, GROUPS = 600, 4
CUTS = st.lists(st.sampled_from([0, 1, 127, 128, 129, 256, 383, 599, 600]), min_size=4, max_size=4)


def _groups(counts, seed=0):
  return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def _counts(cuts):
  """Of the groups and of what is held elsewhere, so that there are always as many choices."""
  return np.diff([0, *sorted(cuts), CHOICES])


def _check(layout, group_R, groups):
  """Every choice held here has a row of its own, in its group's run, in order."""
  row_R, choice_M, group_T, edge_H = (np.asarray(x) for x in jax.tree.leaves(layout))
  choices, rows = len(group_R), len(choice_M)
  here_R = (group_R >= 0) & (group_R < groups)
  assert rows % 128 == 0 and edge_H[0] == 0 and 128 * edge_H[-1] <= rows
  assert rows <= -(-choices // 128) * 128 + groups * 128
  for g in range(groups):
    mine = np.flatnonzero(group_R == g)
    np.testing.assert_array_equal(row_R[mine], 128 * edge_H[g] + np.arange(len(mine)))
    assert edge_H[g + 1] - edge_H[g] == -(-len(mine) // 128)
    assert (group_T[edge_H[g] : edge_H[g + 1]] == g).all()
  assert (group_T[edge_H[-1] :] == -1).all()
  assert (row_R[~here_R] >= rows).all()
  np.testing.assert_array_equal(choice_M[row_R[here_R]], np.flatnonzero(here_R))
  assert (choice_M == choices).sum() == rows - here_R.sum()
  np.testing.assert_array_equal(layout.held_M, choice_M < choices)


@pytest.mark.parametrize("pattern", itertools.product([0, 200], repeat=4))
def test_empty_groups_in_every_pattern(pattern):
  group_R = np.concatenate([_groups(pattern), [7]])  # one choice is held elsewhere
  _check(arrange(jnp.asarray(group_R), 4), group_R, 4)


@settings(max_examples=25, deadline=None)
@given(CUTS, st.integers(0, 99))
def test_choices_stand_in_order_in_aligned_groups(cuts, seed):
  group_R = _groups(_counts(cuts), seed)  # the last group is held elsewhere
  _check(arrange(jnp.asarray(group_R), GROUPS), group_R, GROUPS)


@pytest.mark.parametrize("choices", [1, 2, 3, 127, 128, 129, 1000])
def test_the_bound_holds_for_the_worst_of_choices_and_is_met(choices):
  groups = 3
  used = min(choices, groups)
  # All but one of the groups in use hold one more than fits a whole number of tiles.
  worst = [1] * (used - 1) + [choices - used + 1]
  tiles = sum(-(-count // 128) for count in worst)
  assert 128 * tiles <= layouts.padded_rows(choices, groups) <= 128 * (tiles + 1)


@settings(max_examples=25, deadline=None)
@given(CUTS)
def test_the_steps_of_the_weight_gradient_visit_every_group_and_tile(cuts):
  layout = arrange(jnp.asarray(_groups(_counts(cuts))), GROUPS)
  group_S, tile_S = (np.asarray(x) for x in steps(layout))
  assert (np.diff(group_S) >= 0).all() and set(group_S) == set(range(GROUPS))
  used = tile_S >= 0
  np.testing.assert_array_equal(tile_S[used], np.arange(layout.edge_H[-1]))
  np.testing.assert_array_equal(group_S[used], layout.group_T[: layout.edge_H[-1]])


def test_routing_s_plan_gives_the_same_layout_without_a_sort():
  routing = pytest.importorskip("pallas_kernels.routing.api")
  plans = pytest.importorskip("pallas_kernels.routing.plan")
  from pallas_kernels.routing.rule import Rule

  logits_NE = jax.random.normal(jax.random.key(0), (300, 8))
  rule = Rule(top_k=2, groups=4, top_groups=2)
  routed = routing.route(logits_NE, jnp.zeros(8), rule, implementation="ref")
  plan = plans.plan(routed)
  got = layouts.from_places(plan.row_M, plan.aligned_E // 128)
  want = layouts.arrange(routed.experts_NA.reshape(-1), 8)
  for ours, theirs in zip(jax.tree.leaves(want), jax.tree.leaves(got)):
    np.testing.assert_array_equal(ours, theirs)


def test_rows_and_back_with_their_gradients():
  tokens, top_k, groups = 40, 3, 4
  keys = jax.random.split(jax.random.key(0), 4)
  group_R = jax.random.randint(keys[0], (tokens * top_k,), 0, groups + 1)  # some held elsewhere
  layout = layouts.arrange(group_R, groups)
  x_ND = jax.random.normal(keys[1], (tokens, 8))

  def there_and_back(x_ND):
    return layouts.from_rows(jnp.tanh(layouts.to_rows(x_ND, layout)), layout)

  def plain(x_ND):
    y_RD = jnp.tanh(jnp.repeat(x_ND, top_k, axis=0))
    return jnp.where((group_R < groups)[:, None], y_RD, 0)

  got, backward = jax.vjp(there_and_back, x_ND)
  want, plain_backward = jax.vjp(plain, x_ND)
  np.testing.assert_array_equal(got, want)
  d_RD = jax.random.normal(keys[2], got.shape)
  np.testing.assert_allclose(backward(d_RD)[0], plain_backward(d_RD)[0], rtol=1e-6, atol=1e-6)
  x_MD = layouts.to_rows(x_ND, layout)
  assert not np.asarray(x_MD)[~np.asarray(layout.held_M)].any()
  d_MD = jax.random.normal(keys[3], (layout.rows, 8)).at[~layout.held_M].set(jnp.nan)
  (d_ND,) = jax.vjp(lambda x: layouts.to_rows(x, layout), x_ND)[1](d_MD)
  assert np.isfinite(d_ND).all()


def test_another_number_of_rows_is_refused():
  layout = layouts.arrange(jnp.zeros(5, jnp.int32), 2)
  with pytest.raises(ValueError, match="x has 127 rows, its layout 256"):
    layouts.masked(jnp.zeros((127, 8)), layout)
