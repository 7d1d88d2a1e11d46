"""Rewards are the weighted scores; permuting them changes no group's rewards."""

import numpy as np

from deepseek_jax.rl.rewards import RewardConfig, permuted, rewards


def test_weighted_sum_prompt_by_prompt(complete):
  scores = [(1, 1, 0.5), (0, 1, 1), (1, 0, 0), (0, 0, 1)]
  items = [complete(correct=c, form=f, language=s) for c, f, s in scores]
  got = rewards(items, 2, RewardConfig(correct=2.0, format=0.1, language=0.01))
  np.testing.assert_allclose(got, [[2.105, 0.11], [2.0, 0.01]])


def test_permuted_deals_each_groups_rewards_anew():
  rewards_BJ = np.arange(40.0).reshape(5, 8)
  deal = permuted(seed=3)
  once, again, later = deal(rewards_BJ, 0), deal(rewards_BJ, 0), deal(rewards_BJ, 1)
  np.testing.assert_array_equal(np.sort(once, axis=1), rewards_BJ)
  np.testing.assert_array_equal(once, again)
  assert np.any(once != rewards_BJ) and np.any(once != later)
