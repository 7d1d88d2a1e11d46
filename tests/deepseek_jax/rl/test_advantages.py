"""Group advantages and token weights, by property."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deepseek_jax.config import ConfigError
from deepseek_jax.rl.advantages import AdvantageConfig, group_advantages, token_weights

REWARDS = arrays(
  np.float64, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.sampled_from([0, 0.1, 1])
)


def none_truncated(rewards_BJ):
  return np.zeros(rewards_BJ.shape, bool)


@given(REWARDS)
def test_by_hand(rewards_BJ):
  got = group_advantages(rewards_BJ, none_truncated(rewards_BJ), AdvantageConfig())
  plain = group_advantages(rewards_BJ, none_truncated(rewards_BJ), AdvantageConfig(scale="none"))
  for row, rewards_J in enumerate(rewards_BJ):
    if len(set(rewards_J)) == 1:
      assert not got.kept_BJ[row].any() and not got.advantage_BJ[row].any()
      continue
    assert got.kept_BJ[row].all()
    want_J = (rewards_J - rewards_J.mean()) / (rewards_J.std() + 1e-6)
    np.testing.assert_allclose(got.advantage_BJ[row], want_J, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(plain.advantage_BJ[row], rewards_J - rewards_J.mean(), atol=1e-12)
  assert got.zero_variance == sum(len(set(r)) == 1 for r in rewards_BJ)


@given(REWARDS, st.floats(0.5, 4), st.floats(-3, 3))
def test_scaled_advantages_ignore_the_unit_and_origin_of_rewards(rewards_BJ, unit, origin):
  config = AdvantageConfig(truncated="keep")
  none = none_truncated(rewards_BJ)
  a = group_advantages(rewards_BJ, none, config)
  b = group_advantages(unit * rewards_BJ + origin, none, config)
  np.testing.assert_allclose(a.advantage_BJ, b.advantage_BJ, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(a.kept_BJ, b.kept_BJ)


@given(REWARDS, st.randoms())
def test_order_within_a_group_does_not_matter(rewards_BJ, random):
  order = list(range(rewards_BJ.shape[1]))
  random.shuffle(order)
  none, config = none_truncated(rewards_BJ), AdvantageConfig()
  a = group_advantages(rewards_BJ, none, config).advantage_BJ[:, order]
  b = group_advantages(rewards_BJ[:, order], none, config).advantage_BJ
  np.testing.assert_allclose(a, b, atol=1e-12)


def test_truncated_samples():
  rewards_BJ = np.array([[1.0, 1.0, 1.0, 0.0]])
  truncated_BJ = np.array([[False, False, True, False]])
  zero, mask, keep = (
    group_advantages(rewards_BJ, truncated_BJ, AdvantageConfig(scale="none", truncated=how))
    for how in ("zero", "mask", "keep")
  )
  np.testing.assert_allclose(zero.advantage_BJ, [[0.5, 0.5, -0.5, -0.5]])
  np.testing.assert_allclose(mask.advantage_BJ, [[1 / 3, 1 / 3, 0, -2 / 3]])
  np.testing.assert_array_equal(mask.kept_BJ, [[True, True, False, True]])
  np.testing.assert_allclose(keep.advantage_BJ, [[0.25, 0.25, 0.25, -0.75]])


@given(REWARDS, st.integers(0, 2**24 - 1), st.sampled_from(["zero", "mask", "keep"]))
def test_advantages_are_those_of_the_rewards_that_are_told(rewards_BJ, cut, how):
  """What is logged is what was compared: from it the same advantages come, nothing being cut."""
  truncated_BJ = np.array([cut >> i & 1 for i in range(rewards_BJ.size)], bool)
  truncated_BJ = truncated_BJ.reshape(rewards_BJ.shape)
  got = group_advantages(rewards_BJ, truncated_BJ, AdvantageConfig(truncated=how))
  zeroed_BJ = truncated_BJ if how == "zero" else none_truncated(rewards_BJ)
  np.testing.assert_array_equal(got.reward_BJ, np.where(zeroed_BJ, 0.0, rewards_BJ))
  again = AdvantageConfig(truncated="mask" if how == "mask" else "keep")
  want = group_advantages(got.reward_BJ, truncated_BJ, again)
  np.testing.assert_array_equal(got.advantage_BJ, want.advantage_BJ)


def test_a_group_with_one_sample_left_is_dropped():
  got = group_advantages(
    np.array([[1.0, 0.0]]), np.array([[False, True]]), AdvantageConfig(truncated="mask")
  )
  assert got.zero_variance == 1 and not got.kept_BJ.any()


@settings(max_examples=30)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_token_weights(lengths):
  lengths_N = np.array(lengths)
  by_sequence = token_weights(lengths_N, "sequence", 50)
  by_token = token_weights(lengths_N, "token", 50)
  constant = token_weights(lengths_N, "constant", 50)
  np.testing.assert_allclose(by_sequence * lengths_N, 1 / len(lengths))  # each counts the same
  np.testing.assert_allclose(by_token, 1 / lengths_N.sum())  # each token counts the same
  np.testing.assert_allclose(constant, 1 / (len(lengths) * 50))  # whatever the lengths


def test_bad_names_are_refused():
  with pytest.raises(ConfigError, match="advantage.truncated is 'drop'"):
    AdvantageConfig(truncated="drop")
