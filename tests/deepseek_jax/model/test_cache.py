"""Decoding with a cache equals the whole row at once, however it is cut into calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.model.cache import init_cache

LENGTHS = (6, 2, 4)  # of the prompts; then NEW tokens each
PROMPT, NEW, SLOTS = 6, 3, 12
TOKENS = np.random.default_rng(1).integers(0, 40, (3, PROMPT + NEW))
START = PROMPT - np.array(LENGTHS)[:, None]
POSITIONS = np.maximum(np.arange(PROMPT + NEW) - START, 0)
SEGMENTS = (np.arange(PROMPT + NEW) >= START).astype(int)


def close(got, expected):
  np.testing.assert_allclose(got, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


def decode(run, model, weights, cuts, absorbed):
  """Hidden states and chosen experts of a row fed in pieces that end at `cuts`."""
  cache = init_cache(model.config, 3, SLOTS)
  hidden, experts = [], []
  for start, stop in zip([0, *cuts], cuts):
    piece = [x[:, start:stop] for x in (TOKENS, POSITIONS, SEGMENTS)]
    out = run(model, weights, *piece, cache=cache, absorbed=absorbed and start > 0)
    cache = out.cache
    hidden.append(out.hidden_BTD)
    experts.append(out.routing.experts_LBTA)
  return np.concatenate(hidden, axis=1), np.concatenate(experts, axis=2), cache


@pytest.fixture(scope="module")
def alone(mini, run):
  """Hidden states of each row without padding and without a cache, computed once per kind."""
  known = {}

  def call(kind):
    if kind not in known:
      model, weights = mini(kind)
      rows = np.zeros_like(TOKENS)
      for b, start in enumerate(START[:, 0]):
        rows[b, : TOKENS.shape[1] - start] = TOKENS[b, start:]
      out = run(model, weights, rows)
      known[kind] = [
        np.asarray(out.hidden_BTD[b, : TOKENS.shape[1] - s]) for b, (s,) in enumerate(START)
      ]
    return known[kind]

  return call


@pytest.mark.parametrize(
  ("kind", "absorbed"), [("v3", True), ("v3", False), ("v2", True), ("dense", False)]
)
def test_left_padded_prompts_then_token_by_token(kind, absorbed, mini, run, alone):
  """Prompts of 6, 2 and 4 tokens side by side, then three tokens one at a time."""
  model, weights = mini(kind)
  hidden, experts, cache = decode(run, model, weights, [PROMPT, *range(PROMPT + 1, 10)], absorbed)
  for b, expected in enumerate(alone(kind)):
    close(hidden[b, START[b, 0] :], expected)
  assert cache.index == PROMPT + NEW
  np.testing.assert_array_equal(cache.span.segments_BT[:, :9], SEGMENTS)
  assert np.all(cache.span.segments_BT[:, 9:] == -1)
  assert experts.shape[1:3] == (3, 9)


def test_pieces_of_three_and_blockwise_over_the_cache(mini, run, alone):
  """Twelve slots in blocks of five, the last one part empty; the first piece not absorbed."""
  model, weights = mini("v3", attention_block=5)
  hidden, _, _ = decode(run, model, weights, [3, 6, 9], True)
  for b, expected in enumerate(alone("v3")):
    close(hidden[b, START[b, 0] :], expected)


def test_what_unwritten_slots_hold_does_not_matter(mini, run):
  model, weights = mini("v3")
  cache = init_cache(model.config, 3, SLOTS)
  wild = cache.replace(layers=jax.tree.map(lambda x: x + 1e6, cache.layers))
  span = [x[:, :PROMPT] for x in (TOKENS, POSITIONS, SEGMENTS)]
  expected = run(model, weights, *span, cache=cache).hidden_BTD
  got = run(model, weights, *span, cache=wild).hidden_BTD
  np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("kind", "numbers"), [("v3", 9 + 4), ("v2", 9 + 4), ("dense", 2 * 2 * 6)])
def test_numbers_kept_per_token_and_layer(kind, numbers, mini):
  """MLA keeps its latent and the shared rotary key; grouped-query attention keys and values."""
  config = mini(kind).model.config
  layers = init_cache(config, 2, 5, jnp.bfloat16).layers
  leaves = jax.tree.leaves(layers)
  assert sum(x.size for x in leaves) == config.layers * 2 * 5 * numbers
  assert {x.dtype for x in leaves} == {jnp.dtype(jnp.bfloat16)}


def test_a_cache_of_bfloat16_is_near(mini, run):
  """Without experts, where rounding could choose others."""
  model, weights = mini("dense")
  span = [x[:, :PROMPT] for x in (TOKENS, POSITIONS, SEGMENTS)]
  expected = run(model, weights, *span).hidden_BTD
  out = run(model, weights, *span, cache=init_cache(model.config, 3, SLOTS, jnp.bfloat16))
  assert out.hidden_BTD.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(out.cache.layers)} == {jnp.dtype(jnp.bfloat16)}
  valid = SEGMENTS[:, :PROMPT] > 0
  assert np.abs(out.hidden_BTD - expected)[valid].max() < 0.05 * np.abs(expected).max()
