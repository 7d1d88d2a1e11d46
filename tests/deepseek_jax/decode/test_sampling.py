"""Token sampling: the right distribution, the smallest nucleus, keys that are counters."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from deepseek_jax.decode import sampling

DRAWS = 40_000
compiled = jax.jit(sampling.sample_token)
nucleus = jax.jit(sampling.nucleus)
top_k = jax.jit(sampling.top_k)


def sample_token(logits, keys, temperature, top_p, top_k=0):
  """One rule for all rows, or one for each."""
  shape = len(logits)
  rule = sampling.Rule(
    jnp.broadcast_to(jnp.float32(temperature), shape),
    jnp.broadcast_to(jnp.float32(top_p), shape),
    jnp.broadcast_to(jnp.int32(top_k), shape),
  )
  return compiled(logits, keys, rule)


def draws(logits_V, temperature, top_p, seed=0, top_k=0):
  """Counts of DRAWS tokens, each of its own key."""
  keys = sampling.sample_keys(seed, 0, jnp.arange(DRAWS), jnp.zeros(DRAWS, int))
  logits = jnp.broadcast_to(logits_V, (DRAWS, len(logits_V)))
  tokens, _ = sample_token(logits, keys, temperature, top_p, top_k)
  return np.bincount(tokens, minlength=len(logits_V))


def chi_square(counts, probs):
  """p-value of the counts under `probs`, over tokens that can occur."""
  can = probs > 0
  assert counts[~can].sum() == 0
  return stats.chisquare(counts[can], probs[can] / probs[can].sum() * counts.sum()).pvalue


LOGITS = jnp.array([2.0, 1.0, 0.0, -1.0, 0.5, -2.0, 1.5, -jnp.inf])


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.0])
def test_draws_follow_the_tempered_softmax(temperature):
  probs = np.asarray(jax.nn.softmax(LOGITS / temperature), np.float64)
  assert chi_square(draws(LOGITS, temperature, 1.0), probs) > 1e-3


def test_draws_follow_the_nucleus():
  probs = np.asarray(jax.nn.softmax(LOGITS), np.float64)
  order = np.argsort(-probs)
  size = int(np.searchsorted(np.cumsum(probs[order]), 0.8)) + 1
  probs[order[size:]] = 0
  assert chi_square(draws(LOGITS, 1.0, 0.8), probs) > 1e-3


def test_successive_tokens_of_a_sample_are_independent():
  key = sampling.sample_keys(3, 1, jnp.array([5]), jnp.array([2]))
  keys = sampling.token_keys(jnp.broadcast_to(key, DRAWS), jnp.arange(DRAWS))
  tokens, _ = sample_token(jnp.zeros((DRAWS, 4)), keys, 1.0, 1.0)
  pairs = np.bincount(np.asarray(tokens[:-1]) * 4 + np.asarray(tokens[1:]), minlength=16)
  assert chi_square(pairs, np.full(16, 1 / 16)) > 1e-3


def test_keys_differ_in_every_counter():
  grid = [sampling.sample_keys(s, t, jnp.arange(3), jnp.full(3, j))
          for s in range(2) for t in range(2) for j in range(2)]  # fmt: skip
  data = np.concatenate([np.asarray(jax.random.key_data(k)) for k in grid])
  assert len(np.unique(data, axis=0)) == len(data) == 24


def test_greedy_is_the_first_argmax():
  logits = jnp.array([[0.0, 3.0, 3.0, 1.0], [5.0, -1.0, 0.0, 4.0]])
  keys = sampling.sample_keys(0, 0, jnp.arange(2), jnp.arange(2))
  assert sample_token(logits, keys, 0.0, 1.0)[0].tolist() == [1, 0]


def test_logprobs_are_the_models_own():
  logits = jax.random.normal(jax.random.key(0), (64, 11)) * 3
  keys = sampling.sample_keys(0, 0, jnp.arange(64), jnp.arange(64))
  for temperature, top_p in [(0.0, 1.0), (0.6, 1.0), (1.0, 0.5)]:
    tokens, logprobs = sample_token(logits, keys, temperature, top_p)
    wanted = jax.nn.log_softmax(logits)[jnp.arange(64), tokens]
    np.testing.assert_allclose(logprobs, wanted, atol=1e-6)


@hypothesis.given(
  st.lists(st.integers(0, 40), min_size=9, max_size=9).filter(any), st.integers(1, 99)
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_nucleus_is_the_smallest_set_that_reaches_top_p(weights, percent):
  # Ties and zeros are common in these rows. Sums of dyadic fractions are exact.
  probs = np.array(weights, np.float64)
  probs = np.append(probs, 512 - probs.sum()) / 512
  top_p = percent / 100
  kept = np.asarray(nucleus(jnp.asarray(probs[None], jnp.float32), np.float32([top_p])))[0]
  order = np.argsort(-probs, kind="stable")
  size = int(np.searchsorted(np.cumsum(probs[order]), np.float32(top_p))) + 1
  expected = np.zeros_like(probs)
  expected[order[:size]] = probs[order[:size]]
  np.testing.assert_array_equal(kept, expected)


def test_nucleus_keeps_one_token_and_all_at_the_ends():
  probs = jnp.full((1, 8), 1 / 8)
  assert (nucleus(probs, jnp.array([1e-6]))[0] > 0).tolist() == [True] + [False] * 7
  assert (nucleus(probs, jnp.ones(1))[0] > 0).all()


def test_top_k_keeps_the_first_of_equals_and_normalises_again():
  probs = jnp.array([[0.2, 0.3, 0.2, 0.2, 0.1], [0.5, 0.0, 0.25, 0.0, 0.25]])
  kept = np.asarray(top_k(probs, jnp.array([3, 0])))
  np.testing.assert_allclose(kept[0], np.array([0.2, 0.3, 0.2, 0, 0]) / 0.7, rtol=1e-6)
  np.testing.assert_allclose(kept[1], probs[1])


def test_draws_follow_top_k_then_the_nucleus_of_what_is_left():
  """As transformers does: the four best are normalised again before the nucleus is taken."""
  probs = np.asarray(jax.nn.softmax(LOGITS), np.float64)
  order = np.argsort(-probs)
  probs[order[4:]] = 0
  probs /= probs.sum()
  size = int(np.searchsorted(np.cumsum(probs[order]), 0.8)) + 1
  probs[order[size:]] = 0
  assert chi_square(draws(LOGITS, 1.0, 0.8, top_k=4), probs) > 1e-3


def test_each_row_has_its_own_rule():
  """The rows of a mixed batch draw what they draw in a batch of their own kind."""
  rng = np.random.default_rng(0)
  logits = jnp.asarray(rng.normal(size=(60, 11)), jnp.float32)
  keys = sampling.sample_keys(0, 0, jnp.arange(60), jnp.zeros(60, int))
  kinds = [(0.0, 1.0, 0), (1.0, 1.0, 0), (0.7, 0.6, 0), (1.3, 1.0, 3), (1.0, 0.5, 4)]
  each = [kinds[i % 5] for i in range(60)]
  mixed, logprobs = sample_token(logits, keys, *map(np.array, zip(*each)))
  for k, kind in enumerate(kinds):
    alone, alone_logprobs = sample_token(logits, keys, *kind)
    np.testing.assert_array_equal(mixed[k::5], alone[k::5])
    np.testing.assert_allclose(logprobs[k::5], alone_logprobs[k::5], atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-3, 1e-4, 1e-10, 1e-30, 1e-37, 1e-39, 1e-45])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_temperature_near_nothing_gives_the_greedy_tokens(temperature, top_p):
  logits = jax.random.normal(jax.random.key(0), (5, 600)) * 5
  keys = sampling.sample_keys(0, 0, jnp.arange(5), jnp.zeros(5, int))
  tokens, _ = sample_token(logits, keys, temperature, top_p)
  assert tokens.tolist() == jnp.argmax(logits, axis=-1).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_logit_that_is_no_finite_number_shows_in_the_log_probability(bad, temperature):
  logits = jnp.zeros((2, 9)).at[1, 4].set(bad)
  keys = sampling.sample_keys(0, 0, jnp.arange(2), jnp.zeros(2, int))
  _, logprobs = sample_token(logits, keys, temperature, 1.0)
  assert np.isfinite(logprobs).tolist() == [True, False]
