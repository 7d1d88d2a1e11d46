"""The reward head: the last token's, whatever stands beside the text, for every kind of model."""

import jax
import numpy as np
import pytest

from deepseek_jax.model.reward import (
  HEAD,
  has_head,
  text_rewards,
  with_head,
  without_head,
)
from deepseek_jax.model.transformer import forward

rewards_of = jax.jit(lambda m, *args: text_rewards(m, *args)[0], static_argnums=0)
hidden_of = jax.jit(lambda m, *args: forward(m, *args).hidden_BTD, static_argnums=0)
LENGTHS = (5, 9, 1)


@pytest.fixture(scope="module", params=["v3", "v2", "dense", "experts"])
def judge(request, mini):
  """A model and weights with a head that is not zero."""
  model, weights = mini(request.param)
  weights = with_head(weights)
  value_D = np.random.default_rng(1).normal(size=model.config.d_model).astype(np.float32)
  return model, weights.replace(params={**weights.params, HEAD: {"value_D": value_D}})


def texts(model):
  rng = np.random.default_rng(2)
  return [rng.integers(0, model.config.vocab, length) for length in LENGTHS]


def rows(texts, width, left=0):
  """Tokens, positions and segments of texts behind `left` places of padding."""
  tokens_BT, positions_BT, segments_BT = np.zeros((3, len(texts), width), np.int32)
  for row, text in enumerate(texts):
    place = slice(left, left + len(text))
    tokens_BT[row, place], positions_BT[row, place] = text, np.arange(len(text))
    segments_BT[row, place] = 1
  return tokens_BT, positions_BT, segments_BT


def test_reward_is_the_last_tokens_hidden_state_times_the_head(judge):
  model, weights = judge
  rewards_B = rewards_of(model, weights, *rows(texts(model), 9))
  for text, reward in zip(texts(model), rewards_B, strict=True):
    hidden_BTD = hidden_of(model, without_head(weights), *rows([text], len(text)))
    naive = np.float64(hidden_BTD[0, -1]) @ np.float64(weights.params[HEAD]["value_D"])
    np.testing.assert_allclose(reward, naive, rtol=1e-4, atol=1e-4)


def test_padding_on_either_side_changes_no_reward(judge):
  model, weights = judge
  bare = rewards_of(model, weights, *rows(texts(model), 9))
  for width, left in ((16, 0), (16, 7), (12, 3)):
    tokens_BT, *span = rows(texts(model), width, left)
    tokens_BT = np.where(span[1] > 0, tokens_BT, 3)  # whatever token the padding is
    padded = rewards_of(model, weights, tokens_BT, *span)
    np.testing.assert_allclose(padded, bare, rtol=1e-4, atol=1e-5)


def test_a_fresh_head_says_zero_and_an_old_one_is_kept(judge):
  model, weights = judge
  fresh = with_head(without_head(weights))
  np.testing.assert_array_equal(rewards_of(model, fresh, *rows(texts(model), 9)), np.zeros(3))
  assert with_head(weights) is weights


def test_the_language_model_beneath_is_untouched(judge):
  model, weights = judge
  plain = without_head(weights)
  assert has_head(weights) and not has_head(plain)
  place = rows(texts(model), 9)
  np.testing.assert_array_equal(hidden_of(model, weights, *place), hidden_of(model, plain, *place))
