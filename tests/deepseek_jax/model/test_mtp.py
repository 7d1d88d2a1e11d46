"""MTP modules look as far ahead as their depth and no further, and merge as the weights need."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.model.transformer import forward, mtp_hidden
from deepseek_jax.types import Weights

T = 8
TOKENS = np.random.default_rng(0).permutation(40)[: 2 * T].reshape(2, T)
POSITIONS = np.tile(np.arange(T), (2, 1))
ONES = np.ones((2, T), np.int32)


@functools.partial(jax.jit, static_argnums=0)
def influence(model, weights):
  """|d hidden_t of each depth / d embedding of token s| [P, T, T], for the first row."""
  span = (TOKENS[:1], POSITIONS[:1], ONES[:1])

  def hidden(embed_VD):
    own = Weights({**weights.params, "embed_VD": embed_VD}, weights.router_bias_LE)
    main_BTD = forward(model, own, *span).hidden_BTD
    return mtp_hidden(model, own, main_BTD, *span)[0][:, 0]

  value_PTD, pull = jax.vjp(hidden, weights.params["embed_VD"])
  P, _, D = value_PTD.shape
  direction_D = jax.random.normal(jax.random.key(0), (D,))
  one = jnp.eye(P * T).reshape(P * T, P, T)[..., None] * direction_D
  (grad,) = jax.vmap(pull)(one)
  return jnp.abs(grad[:, TOKENS[0]]).sum(axis=-1).reshape(P, T, T)


@pytest.mark.parametrize("kind", ["experts", "dense"])
def test_depth_k_at_t_knows_tokens_up_to_t_plus_k(kind, mini):
  """So that it may predict token t + k + 1, and cannot have seen it."""
  model, weights = mini(kind)
  grad_PTS = np.asarray(influence(model, weights))
  assert len(grad_PTS) == model.config.mtp_depth
  for k, grad_TS in enumerate(grad_PTS, 1):
    t, s = np.mgrid[:T, :T]
    assert np.all(grad_TS[s > t + k] == 0)
    # Beyond the row there is no token; position t there is fed token 0 (masked by the loss).
    assert np.all(grad_TS[(s <= t + k) & (t + k < T)] > 0)


def test_documents_in_one_row_equal_documents_apart(mini, run_mtp):
  """At positions whose target lies within the document, which are those the loss counts."""
  model, weights = mini("experts")
  segments = np.array([[1] * 5 + [2] * 3, [1] * 4 + [2] * 4])
  positions = np.array([[*range(5), *range(3)], [*range(4), *range(4)]])
  packed, _ = run_mtp(model, weights, TOKENS, positions, segments)
  apart = ((0, 0, 5), (0, 5, 8), (1, 0, 4), (1, 4, 8))
  rows = np.zeros((4, T), int)
  for i, (row, start, stop) in enumerate(apart):
    rows[i, : stop - start] = TOKENS[row, start:stop]
  alone, _ = run_mtp(model, weights, rows)
  for k in (1, 2):
    for i, (row, start, stop) in enumerate(apart):
      last = stop - 1 - k  # predicts the document's last token
      got, expected = packed[k - 1, row, start:last], alone[k - 1, i, : last - start]
      np.testing.assert_allclose(got, expected, atol=2e-5)


def test_the_embedding_meets_the_first_half_of_the_merge(mini, run_mtp):
  """The released weights' order, which is not the paper's."""
  model, weights = mini("experts")

  def without(half):
    merge_WD = weights.params["mtp_0"]["merge_WD"].copy()
    merge_WD[half] = 0
    params = {**weights.params, "mtp_0": {**weights.params["mtp_0"], "merge_WD": merge_WD}}
    return Weights(params, weights.router_bias_LE)

  D = model.config.d_model
  moved = np.roll(TOKENS, 1, axis=1)  # other tokens everywhere
  blind = without(slice(0, D))
  changed = {**blind.params["mtp_0"], "embed_norm_D": np.full(D, 5, np.float32)}
  rescaled = Weights({**blind.params, "mtp_0": changed}, blind.router_bias_LE)
  first, again = (run_mtp(model, w, TOKENS)[0][0] for w in (blind, rescaled))
  np.testing.assert_array_equal(first, again)
  deaf = without(slice(D, None))
  # Position 0 sees itself alone, and now only the embedding of token 1.
  same_next = moved.copy()
  same_next[:, 1] = TOKENS[:, 1]
  first, again = (run_mtp(model, deaf, tokens)[0][0, :, 0] for tokens in (TOKENS, same_next))
  np.testing.assert_allclose(first, again, atol=1e-5)


def test_shapes_and_rows_of_the_report(mini, run, run_mtp):
  model, weights = mini("experts")
  segments = np.where(np.arange(T) < [[T], [5]], 1, 0)
  hidden, routing = run_mtp(model, weights, TOKENS, POSITIONS, segments)
  assert hidden.shape == (2, 2, T, 24)
  assert routing.experts_LBTA.shape == (2, 2, T, 2)
  np.testing.assert_array_equal(routing.load_LE.sum(axis=1), (T + 5) * 2)
  main = run(model, weights, TOKENS, POSITIONS, segments).routing
  assert len(main.load_LE) + len(routing.load_LE) == len(weights.router_bias_LE)


def test_each_module_has_its_own_row_of_the_router_bias(mini, run_mtp):
  """The rows after those of the main model's expert layers."""
  model, weights = mini("experts")
  bias_LE = np.zeros((4, 8), np.float32)
  bias_LE[2, 0:2] = bias_LE[3, 4:6] = 50
  experts = np.asarray(run_mtp(model, Weights(weights.params, bias_LE), TOKENS)[1].experts_LBTA)
  assert np.all(experts[0] == [0, 1])
  assert np.all(experts[1] == [4, 5])


def test_modules_of_a_dense_model_report_no_routing(mini, run_mtp):
  hidden, routing = run_mtp(*mini("dense"), TOKENS)
  assert hidden.shape == (1, 2, T, 24)
  assert routing.load_LE.shape == (0, 0)
