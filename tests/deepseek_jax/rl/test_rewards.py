"""Rewards are the weighted parts; permuting them changes no group's rewards."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.rl.advantages import AdvantageConfig, group_advantages
from deepseek_jax.rl.reward_parts import (
  CosineConfig,
  LearnedConfig,
  OverlongConfig,
  RepetitionConfig,
)
from deepseek_jax.rl.rewards import RewardConfig, joined, permuted, rewards
from deepseek_jax.rl.rollout import RolloutConfig
from deepseek_jax.rl.statistics import statistics

ALL = RewardConfig(
  correct=0.5,
  format=0.1,
  language=0.2,
  overlong=OverlongConfig(weight=2.0, buffer=4),
  cosine=CosineConfig(weight=3.0),
  repetition=RepetitionConfig(weight=0.7, ngram=1),
)


def test_weighted_sum_prompt_by_prompt(complete):
  scores = [(1, 1, 0.5), (0, 1, 1), (1, 0, 0), (0, 0, 1)]
  items = [complete(correct=c, form=f, language=s) for c, f, s in scores]
  config = RewardConfig(correct=2.0, format=0.1, language=0.01)
  got = rewards(items, 2, config, longest=8).total_BJ
  np.testing.assert_allclose(got, [[2.105, 0.11], [2.0, 0.01]])


def test_what_is_said_in_whatever_form_counts_where_the_task_judges_that(complete):
  items = [complete(correct=0.0, form=0.0, said=said) for said in (1.0, 0.0)]
  got = rewards(items, 2, RewardConfig(said=0.5), longest=8)
  np.testing.assert_allclose(got.total_BJ, [[0.5, 0.0]])
  with pytest.raises(ConfigError, match="reward.said is in use, but the task 't' does not judge"):
    rewards([complete(), complete()], 2, RewardConfig(said=0.5), longest=8)


def test_every_part_by_hand(complete):
  """Of at most 8 tokens: three, right; six with one repeated, wrong; eight, cut off."""
  items = [
    complete(tokens=(3, 4, 5)),
    complete(tokens=(3, 4, 3, 5, 6, 7), correct=0.0, form=0.0, language=0.5),
    complete(tokens=(3,) * 8, correct=0.0, form=0.0, language=0.0, truncated=True),
    complete(tokens=(3, 4, 5), correct=0.5),  # half right is not right
  ]
  got = rewards(items, 2, ALL, longest=8)
  third = 1 + np.cos(3 * np.pi / 8)
  parts = {
    "correct": [1, 0, 0, 0.5],
    "format": [1, 0, 0, 1],
    "language": [1, 0.5, 0, 1],
    "overlong": [0, -0.5, -1, 0],
    "cosine": [
      0.5 + 0.25 * third,
      -0.5 - 0.25 * (1 + np.cos(6 * np.pi / 8)),
      -1,
      -0.5 - 0.25 * third,
    ],
    "repetition": [0, -1 / 6, -7 / 8, 0],
  }
  assert list(got.parts) == list(parts)
  for name, values in parts.items():
    np.testing.assert_allclose(got.parts[name].ravel(), values, atol=1e-12, err_msg=name)
  weights = dict(zip(parts, (0.5, 0.1, 0.2, 2.0, 3.0, 0.7)))
  total = sum(weights[name] * np.array(values, float) for name, values in parts.items())
  np.testing.assert_allclose(got.total_BJ.ravel(), total, atol=1e-12)


@pytest.mark.parametrize(("reads", "read"), [("text", "4 </think> x"), ("answer", " x")])
def test_a_reward_model_reads_the_question_and_what_it_is_to_read(complete, reads, read):
  items = [dataclasses.replace(complete(), text=f"{n} </think> x") for n in (4, 4, 4, 4)]
  seen = []

  def judge(prompts, texts):
    seen.extend(zip(prompts, texts, strict=True))
    return np.arange(len(texts), dtype=np.float32)

  config = RewardConfig(correct=1.0, format=0.0, learned=LearnedConfig(0.5, "runs/reward", reads))
  got = rewards(items, 2, config, 8, judge)
  assert seen == [(one.problem.prompt, read) for one in items]
  np.testing.assert_array_equal(got.parts["learned"], [[0, 1], [2, 3]])
  np.testing.assert_array_equal(got.total_BJ, [[1, 1.5], [2, 2.5]])


def test_a_reward_model_judges_the_tasks_that_are_named_and_no_others(complete):
  items = [complete() for _ in range(4)]
  for i in (1, 2):
    problem = dataclasses.replace(items[i].problem, task="general")
    items[i] = dataclasses.replace(items[i], problem=problem)
  learned = LearnedConfig(1.0, "runs/reward", tasks="general, other")
  config = RewardConfig(correct=1.0, format=0.0, learned=learned)
  got = rewards(items, 2, config, 8, lambda prompts, texts: np.full(len(texts), 7.0 + len(texts)))
  np.testing.assert_array_equal(got.parts["learned"], [[0, 9], [9, 0]])
  nobody = dataclasses.replace(config, learned=LearnedConfig(1.0, "runs/reward", tasks="other"))
  assert not rewards(items, 2, nobody, 8, lambda *_: 1 / 0).parts["learned"].any()


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=3, max_size=3))
def test_a_part_without_weight_is_not_in_use(weights):
  config = RewardConfig(*weights)
  used = dict(zip(("correct", "format", "language"), weights))
  assert config.weights() == {name: weight for name, weight in used.items() if weight}


def test_nothing_in_use_is_no_reward(complete):
  got = rewards([complete()] * 4, 2, RewardConfig(0.0, 0.0, 0.0), longest=8)
  assert got.parts == {} and got.total_BJ.shape == (2, 2) and not got.total_BJ.any()


def test_joined_rewards_are_those_of_all(complete):
  items = [complete(correct=float(i % 3 == 0), tokens=range(1, 2 + i)) for i in range(6)]
  whole = rewards(items, 2, ALL, longest=8)
  several = joined([rewards(items[:2], 2, ALL, 8), rewards(items[2:], 2, ALL, 8)])
  np.testing.assert_array_equal(several.total_BJ, whole.total_BJ)
  for name, values_BJ in whole.parts.items():
    np.testing.assert_array_equal(several.parts[name], values_BJ)


def test_statistics_name_the_parts_in_use(complete):
  items = [complete(), complete(correct=0.0), complete(tokens=(3, 3, 3)), complete(truncated=True)]

  def told(config):
    judged = rewards(items, 2, config, longest=8)
    truncated_BJ = np.array([c.truncated for c in items]).reshape(2, 2)
    advantages = group_advantages(judged.total_BJ, truncated_BJ, AdvantageConfig())
    return judged, advantages, statistics(items, judged, advantages)

  _, _, plain = told(RewardConfig(format=0.0))
  assert {n for n in plain if n.startswith("reward")} == {
    "reward", "reward_std", "reward_correct_std",
  }  # fmt: skip
  assert plain["correct"] == 0.75 and plain["format"] == 1 and plain["language"] == 1
  judged, advantages, full = told(ALL)
  learnt_BJ = advantages.reward_BJ
  assert full["reward"] == learnt_BJ.mean() and full["reward_std"] == learnt_BJ.std()
  for name in ("overlong", "cosine", "repetition"):
    assert full[f"reward_{name}"] == judged.parts[name].mean() != 0
    assert full[f"reward_{name}_std"] == judged.parts[name].std() > 0
  assert "reward_correct" not in full and "reward_correct_std" in full


@pytest.mark.parametrize(
  "part",
  [
    OverlongConfig(weight=1.0),
    CosineConfig(weight=1.0),
    RepetitionConfig(weight=1.0),
    LearnedConfig(weight=1.0, model="runs/reward"),
  ],
)
def test_a_penalty_that_cutting_off_would_undo_is_refused(part):
  name = type(part).__name__.removesuffix("Config").lower()
  reward = RewardConfig(**{name: part})
  with pytest.raises(
    ConfigError, match=f"reward.{name}.weight is above 0, but advantage.truncated"
  ):
    RolloutConfig(reward=reward)
  for how in ("keep", "mask"):
    assert RolloutConfig(reward=reward, advantage=AdvantageConfig(truncated=how)).reward == reward


def test_a_buffer_beyond_all_tokens_is_refused():
  reward = RewardConfig(overlong=OverlongConfig(weight=1.0, buffer=129))
  given_ = {"advantage": AdvantageConfig(truncated="keep")}
  with pytest.raises(ConfigError, match="reward.overlong.buffer is 129.*rollout.max_new, 128"):
    RolloutConfig(reward=reward, **given_)
  off = dataclasses.replace(reward, overlong=OverlongConfig(buffer=129))
  assert RolloutConfig(reward=off, **given_).reward == off


def test_permuted_deals_each_groups_rewards_anew():
  rewards_BJ = np.arange(40.0).reshape(5, 8)
  deal = permuted(seed=3)
  once, again, later = deal(rewards_BJ, 0), deal(rewards_BJ, 0), deal(rewards_BJ, 1)
  np.testing.assert_array_equal(np.sort(once, axis=1), rewards_BJ)
  np.testing.assert_array_equal(once, again)
  assert np.any(once != rewards_BJ) and np.any(once != later)
