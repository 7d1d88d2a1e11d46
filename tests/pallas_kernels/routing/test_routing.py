"""Every form of the router against the reference, its properties, and mutations of the kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import compat
from pallas_kernels.routing import api, ref, tpu, xla
from pallas_kernels.routing.rule import Rule
from pallas_kernels.routing.shapes import V2, V2_LITE, V3
from pallas_kernels.testing import races

SMALL = Rule(top_k=3, groups=4, top_groups=2, scale=2.5)
CASES = {"V3": (V3, 256), "V2": (V2, 160), "V2-Lite": (V2_LITE, 64), "small": (SMALL, 16)}
TOKENS = 300  # two whole tiles and a part


def _interpreted(logits_NE, bias_E, rule):
  interpret = compat.tpu_interpreter(detect_races=True, uninitialized_memory="nan")
  return tpu.route(logits_NE, bias_E, rule, interpret=interpret)


FORMS = {"ref": ref.route, "xla": xla.route, "tpu": _interpreted}
OTHERS = ("xla", "tpu")


@functools.cache
def _jitted(form):
  return jax.jit(FORMS[form], static_argnums=2)


def _inputs(experts, tokens=TOKENS, seed=0):
  keys = jax.random.split(jax.random.key(seed))
  return 2 * jax.random.normal(keys[0], (tokens, experts)), jax.random.normal(keys[1], experts) / 9


def _check(got, want):
  """Choices are the same; weights differ by their rounding."""
  for name in ("experts_NA", "rank_NA", "counts_E"):
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
  np.testing.assert_allclose(got.weights_NA, want.weights_NA, rtol=2e-6, err_msg="weights_NA")


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_is_the_reference_without_races(case):
  rule, experts = CASES[case]
  logits_NE, bias_E = _inputs(experts)
  got, found = races.run(lambda *x: _interpreted(*x, rule), logits_NE, bias_E)
  assert not found
  _check(got, _jitted("ref")(logits_NE, bias_E, rule))


@pytest.mark.parametrize("form", OTHERS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), levels=st.integers(1, 4))
def test_the_lower_index_wins_ties(form, seed, levels):
  rng = np.random.default_rng(seed)
  logits_NE = rng.integers(0, levels, (40, 16)).astype(np.float32)
  bias_E = rng.integers(0, levels, 16).astype(np.float32) / 8
  _check(_jitted(form)(logits_NE, bias_E, SMALL), _jitted("ref")(logits_NE, bias_E, SMALL))


@pytest.mark.parametrize("form", FORMS)
def test_equal_scores_choose_the_first_experts(form):
  routing = _jitted(form)(jnp.zeros((5, 16)), jnp.zeros(16), SMALL)
  np.testing.assert_array_equal(routing.experts_NA, np.tile(np.arange(3), (5, 1)))
  np.testing.assert_array_equal(routing.rank_NA, np.tile(np.arange(5)[:, None], (1, 3)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["V3", "V2", "small"])
def test_the_group_limit_holds_and_weights_are_unbiased(case, form):
  rule, experts = CASES[case]
  logits_NE, bias_E = _inputs(experts, seed=2)
  routing = _jitted(form)(logits_NE, 10 * bias_E, rule)
  experts_NA = np.asarray(routing.experts_NA)
  groups_NA = experts_NA // (experts // rule.groups)
  assert max(len(set(row)) for row in groups_NA) == rule.top_groups
  assert (np.diff(experts_NA, axis=1) > 0).all() and experts_NA.min() >= 0
  chosen_NA = np.take_along_axis(np.asarray(ref.affinities(logits_NE, rule)), experts_NA, axis=1)
  if rule.normalize:
    chosen_NA /= chosen_NA.sum(axis=1, keepdims=True)
    sums_N = np.asarray(routing.weights_NA, np.float64).sum(axis=1)
    np.testing.assert_allclose(sums_N, rule.scale, rtol=1e-6)
  np.testing.assert_allclose(routing.weights_NA, chosen_NA * rule.scale, rtol=2e-6)


@pytest.mark.parametrize("form", OTHERS)
def test_closed_experts_and_negative_scores(form):
  """A bias of -inf closes an expert; biased affinities below zero still beat closed groups."""
  logits_NE, bias_E = _inputs(16, tokens=50, seed=3)
  bias_E = (bias_E - 3).at[jnp.array([0, 1, 2, 5, 9])].set(-jnp.inf)
  got = _jitted(form)(logits_NE, bias_E, SMALL)
  _check(got, _jitted("ref")(logits_NE, bias_E, SMALL))
  only = jnp.full(16, -jnp.inf).at[11].set(0.0)  # fewer open than are chosen
  _check(_jitted(form)(logits_NE, only, SMALL), _jitted("ref")(logits_NE, only, SMALL))


@pytest.mark.parametrize("form", FORMS)
def test_a_token_of_nan_stays_alone(form):
  logits_NE, bias_E = _inputs(16, tokens=9, seed=4)
  spoilt = _jitted(form)(logits_NE.at[4].set(jnp.nan), bias_E, SMALL)
  others = np.delete(np.arange(9), 4)
  clean = _jitted(form)(logits_NE, bias_E, SMALL)
  np.testing.assert_array_equal(spoilt.experts_NA[others], clean.experts_NA[others])
  np.testing.assert_array_equal(spoilt.weights_NA[others], clean.weights_NA[others])
  row = np.asarray(spoilt.experts_NA[4])
  assert (np.diff(row) > 0).all() and row.min() >= 0 and row.max() < 16
  assert int(spoilt.counts_E.sum()) == 27


@pytest.fixture
def with_interpreted(monkeypatch):
  """The api, whose kernel is interpreted."""
  monkeypatch.setitem(api._FORMS, "tpu", _interpreted)
  return api.route


@pytest.mark.parametrize(
  ("case", "implementation"), [("V2", "xla"), *(("small", name) for name in (None, *FORMS))]
)
def test_weights_are_differentiable_in_the_logits(with_interpreted, case, implementation):
  rule, experts = CASES[case]
  logits_NE, bias_E = _inputs(experts, tokens=20, seed=5)
  pull_NA = jax.random.normal(jax.random.key(6), (20, rule.top_k))

  def ours(logits_NE, bias_E):
    return (with_interpreted(logits_NE, bias_E, rule, implementation).weights_NA * pull_NA).sum()

  def plain(logits_NE, bias_E):  # no rule of its own for the derivative
    return (ref.route(logits_NE, bias_E, rule).weights_NA * pull_NA).sum()

  got, want = (jax.jit(jax.grad(f, argnums=(0, 1)))(logits_NE, bias_E) for f in (ours, plain))
  assert float(jnp.abs(want[0]).max()) > 1e-3
  np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(got[1], 0)
  in_bfloat16 = jax.jit(jax.grad(ours))(logits_NE.astype(jnp.bfloat16), bias_E)
  assert in_bfloat16.dtype == jnp.bfloat16 and bool(jnp.isfinite(in_bfloat16).all())


def test_the_kernel_is_what_runs():
  args = (*_inputs(16), SMALL)
  jaxprs = {
    name: str(jax.make_jaxpr(api.route, static_argnums=(2, 3))(*args, name)) for name in FORMS
  }
  assert jaxprs["tpu"].count("pallas_call[") == 1 and "name=routing" in jaxprs["tpu"]
  assert "pallas_call" not in jaxprs["ref"] + jaxprs["xla"] and "top_k" in jaxprs["xla"]


@pytest.mark.parametrize(
  ("rule", "experts", "word"),
  [
    (Rule(top_k=3, groups=3), 16, "divide"),
    (Rule(top_k=5, groups=4, top_groups=1), 16, "reach 4"),
    (Rule(top_k=2, groups=16, top_groups=2), 16, "two best"),
  ],
)
def test_a_rule_that_cannot_choose_is_refused(rule, experts, word):
  with pytest.raises(ValueError, match=word):
    api.route(jnp.zeros((2, experts)), jnp.zeros(experts), rule, "ref")


def _last_of_ties(x_EN, row_EN):
  top_1N = x_EN.max(axis=0, keepdims=True)
  open_EN = (x_EN == top_1N) & (row_EN < x_EN.shape[0])
  return top_1N, row_EN == jnp.where(open_EN, row_EN, -1).max(axis=0, keepdims=True)


def _including_itself(chosen_EN, tokens):
  return before(chosen_EN, tokens) + chosen_EN.astype(jnp.int32)


before, read, best = tpu._before, tpu._read, tpu._best
MUTATIONS = {
  "the higher index wins ties": ("_top", _last_of_ties),
  "no group is closed": ("_close_groups", lambda choice_EN, rule: choice_EN),
  "V2's group score": ("_group_score", lambda x_EN, rule: x_EN.max(axis=0, keepdims=True)),
  "tokens beyond the last are counted": ("_real", lambda chosen_EN, tokens: chosen_EN),
  "a rank counts its own token": ("_before", _including_itself),
  "weights of the wrong experts": ("_read", lambda c, s, *rest: read(c, s[::-1], *rest)),
  "ranks restart with each tile": (
    "_read",
    lambda c, s, b, k: read(c, s, b - b.min(axis=1, keepdims=True), k),
  ),
  "one expert fewer": ("_best", lambda choice_EN, k: best(choice_EN, k - 1)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_kernel_is_noticed(monkeypatch, mutation):
  logits_NE = jnp.round(_inputs(16, tokens=140, seed=7)[0])  # with ties
  want = _jitted("ref")(logits_NE, jnp.zeros(16), SMALL)
  _check(_jitted("tpu")(logits_NE, jnp.zeros(16), SMALL), want)
  name, broken = MUTATIONS[mutation]
  monkeypatch.setattr(tpu, name, broken)
  with pytest.raises(AssertionError):
    _check(_interpreted(logits_NE, jnp.zeros(16), SMALL), want)
