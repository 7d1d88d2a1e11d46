"""Reinforcement end to end on a bandit: it learns, it resumes, and noise teaches it nothing."""

import dataclasses

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError, GQAConfig
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.rl.rewards import RewardConfig, permuted
from deepseek_jax.rl.rollout import RolloutConfig, roll_out
from deepseek_jax.rl.trainer import Reinforcement, RLConfig
from deepseek_jax.train import grpo
from deepseek_jax.train.state import init_state
from tests.deepseek_jax.rl.bandit import (
  CONFIG,
  MODEL,
  TOKENIZER,
  TX,
  Bandit,
  begin,
  compile_parts,
  iterate,
  make_stage,
)


@pytest.fixture(scope="module")
def compiled():
  return compile_parts()


@pytest.fixture(scope="module")
def learnt(compiled):
  return iterate(make_stage(compiled), begin(compiled), 0, 12)


def test_it_learns(learnt):
  _, records = learnt
  first, last = (np.mean([r["correct"] for r in part]) for part in (records[:2], records[-2:]))
  assert first < 0.4 and last > 0.8, (first, last)


def test_the_first_update_is_on_policy(learnt):
  """The sampler's log-probabilities are those that the training step recomputes."""
  for record in learnt[1]:
    if record["updates"]:
      assert record["mismatch"] < 1e-4
      assert record["experts_differ"] < 1e-3


def test_kl_grows_and_falls_when_the_reference_is_reset(learnt):
  kl = [record["kl"] for record in learnt[1][:4]]
  assert 0 < kl[0] < kl[1] < kl[2]
  assert CONFIG.resets_reference(3) and kl[3] < kl[2] / 2


def test_reference_is_reset_each_time_enough_updates_were_scheduled():
  config = dataclasses.replace(CONFIG, reference_every=5)
  assert [i for i in range(11) if config.resets_reference(i)] == [3, 5, 8, 10]


def test_a_run_cut_between_iterations_goes_on_bit_for_bit(compiled, learnt):
  stage = make_stage(compiled)
  state, before = iterate(stage, begin(compiled), 0, 5)
  state = jax.tree.map(jax.numpy.array, jax.device_get(state))  # as through a checkpoint
  state, after = iterate(make_stage(compiled), state, 5, 12)
  jax.tree.map(np.testing.assert_array_equal, state, learnt[0])
  for a, b in zip(before + after, learnt[1], strict=True):
    assert {k: v for k, v in a.items() if k != "sampling_seconds"} == {
      k: v for k, v in b.items() if k != "sampling_seconds"
    }


def test_every_iteration_shares_one_compilation(compiled, learnt):
  other = dataclasses.replace(
    CONFIG, ratio_level="sequence_mean", kl="k1", clip_high=10.0, mtp_weight=0.0
  )
  iterate(make_stage(compiled, config=other), begin(compiled), 0, 1)
  assert compiled["update"]._cache_size() == 1


def test_equal_rewards_leave_the_weights_alone(compiled):
  stage = make_stage(compiled, transform=lambda rewards_BJ, _: np.ones_like(rewards_BJ))
  state, (record,) = iterate(stage, begin(compiled), 0, 1)
  assert record["updates"] == 0 and record["zero_variance"] == 1 and record["kept"] == 0
  jax.tree.map(np.testing.assert_array_equal, state.weights, compiled["weights"])


@pytest.mark.slow
def test_permuted_rewards_teach_nothing(compiled):
  config = dataclasses.replace(CONFIG, peak=1e-2, kl_weight=0.0, reference_every=0)

  def gain(seed, transform):
    stage = make_stage(compiled, 16, config=config, seed=seed, transform=transform)
    _, records = iterate(stage, begin(compiled), 0, 16)
    first, last = (np.mean([r["correct"] for r in part]) for part in (records[:2], records[-2:]))
    return last - first

  real = [gain(seed, None) for seed in range(8)]
  control = [gain(seed, permuted(seed)) for seed in range(8)]
  assert min(real) > 0.2
  error = np.std(control, ddof=1) / np.sqrt(len(control))
  assert np.mean(control) < 2.5 * error and np.mean(control) < np.mean(real) / 3, (control, real)


def rollout(compiled, iteration=0, **changes):
  config = dataclasses.replace(CONFIG.rollout, **changes)
  return roll_out(
    compiled["engine"], compiled["weights"], Bandit(), TOKENIZER, config, 0, iteration
  )


def test_a_finite_task_starts_again(compiled):
  prompts = [c.problem.key for c in rollout(compiled, 1).completions[:: CONFIG.rollout.group]]
  assert prompts == ["1", "2", "0", "1"]  # problems 4 to 7 of three


def test_updates_share_out_every_telling_sample(compiled):
  got = rollout(compiled)
  assert len(got.updates) == 2
  share = got.report["kept"] * len(got.completions)
  tokens = 0
  for update in got.updates:
    np.testing.assert_allclose(update.batch.weight_BT.sum(), 1, rtol=1e-5)
    tokens += update.batch.batch.loss_mask_BT.sum()
    assert update.batch.batch.tokens_BT.shape == CONFIG.rollout.shape == (4, 4, 16)
  assert share > 0 and tokens <= got.report["sampled_tokens"]


def test_a_prompt_that_does_not_fit_is_named(compiled):
  with pytest.raises(ConfigError, match="has 2 tokens, and rollout.width less"):
    rollout(compiled, width=5)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"group": 1}, "rollout.group is 1"),
    ({"updates": 9, "prompts": 8}, "rollout.updates is 9"),
    ({"max_new": 160}, "rollout.max_new is 160"),
  ],
)
def test_bad_rollouts_are_refused(fields, message):
  with pytest.raises(ConfigError, match=message):
    RolloutConfig(**fields)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("name", ["peak", "final", "kl_weight", "balance_weight"])
def test_weights_that_are_no_finite_numbers_are_refused(name, value):
  with pytest.raises(ConfigError, match=f"rl.{name} is {value}"):
    RLConfig(**{name: value})
  if value != -1:
    with pytest.raises(ConfigError, match=f"reward.correct is {value}"):
      RewardConfig(correct=value)
    with pytest.raises(ConfigError, match=f"rollout.temperature is {value}"):
      RolloutConfig(temperature=value)


def test_a_reset_without_reference_is_refused():
  with pytest.raises(ConfigError, match="rl.reference_every resets a reference"):
    RLConfig(reference_every=3)


def test_a_dense_model_is_reinforced_too():
  model = Transformer(
    dataclasses.replace(
      MODEL.config, attention=GQAConfig(kv_heads=1, head_dim=8), moe=None, mtp_depth=0
    )
  )
  state = init_state(jax.jit(lambda key: init_weights(model, key))(jax.random.key(0)), TX)
  stage = Reinforcement(
    update=grpo.make_step(model, TX, grpo.GRPOConfig()),
    score=grpo.make_scorer(model, grpo.GRPOConfig()),
    engine=SlotEngine(model, slots=32),
    task=Bandit(),
    tokenizer=TOKENIZER,
    config=dataclasses.replace(CONFIG, kl_weight=0.0, reference_every=0),
    iterations=12,
    seed=0,
  )
  _, records = iterate(stage, state, 0, 10)
  assert records[-1]["correct"] > 0.7 and records[0]["mismatch"] < 1e-4
  assert "kl" not in records[0] and records[0]["experts_differ"] == 0


class Wordy(Bandit):
  """A bandit of which one problem is longer than the others."""

  def sample(self, split, index, seed, language=None):
    problem = super().sample(split, index, seed)
    return dataclasses.replace(problem, prompt="a " * 20 + "?") if index == 1 else problem


def test_a_prompt_that_is_too_long_is_left_out_and_told_before_sampling(compiled, capsys):
  config = dataclasses.replace(CONFIG.rollout, width=16)
  given = (compiled["engine"], compiled["weights"], Wordy(), TOKENIZER, config, 0, 0)
  rolled = roll_out(*given)
  assert rolled.report["left_out"] == 2  # of a task of three problems, gone through once and a half
  assert len(rolled.completions) == 4 * 8
  assert {c.problem.key for c in rolled.completions} == {"0", "2"}
  assert (
    "problem 1 of bandit has a prompt of 21 tokens, more than the 12" in capsys.readouterr().err
  )
  plain = roll_out(*given[:2], Bandit(), *given[3:])
  assert "left_out" not in plain.report


class Fragile(Bandit):
  """A bandit whose verifier raises on one of its problems, and gives no share for another."""

  def score(self, problem, text):
    if problem.key == "0":
      raise ZeroDivisionError("no answer")
    score = super().score(problem, text)
    return dataclasses.replace(score, correct=float("nan")) if problem.key == "1" else score


def test_a_verifier_that_fails_is_counted_and_the_run_goes_on(compiled, capsys):
  stage = make_stage(compiled, task=Fragile())
  _, (record,) = iterate(stage, begin(compiled), 0, 1)
  group = CONFIG.rollout.group
  assert record["unjudged_error"] == 2 * group and record["unjudged_range"] == group
  assert record["format"] == 0.25 and np.isfinite(record["reward"]), "one problem in four is judged"
  assert "ZeroDivisionError: no answer" in capsys.readouterr().err
  _, (sound,) = iterate(make_stage(compiled), begin(compiled), 0, 1)
  assert not [name for name in sound if name.startswith("unjudged")]


class Told(Bandit):
  """A bandit that is asked at more length."""

  def sample(self, split, index, seed, language=None):
    problem = super().sample(split, index, seed)
    return dataclasses.replace(problem, prompt="b c d " + problem.prompt)


def test_a_shared_prompt_is_computed_once_and_learnt_from_alike(compiled):
  wide = dataclasses.replace(CONFIG.rollout, width=32, rows=4)
  records, sizes = [], []
  for config in (wide, dataclasses.replace(wide, share_prompts=True)):
    stage = make_stage(compiled, task=Told(), config=dataclasses.replace(CONFIG, rollout=config))
    _, (record,) = iterate(stage, begin(compiled), 0, 1)
    records.append(record)
    given = (compiled["engine"], compiled["weights"], Told(), TOKENIZER, config, 0, 0)
    updates = roll_out(*given).updates
    sizes.append(sum(np.count_nonzero(u.batch.batch.segments_BT) for u in updates))
  alone, together = records
  assert together["mismatch"] < 1e-4 and together["trained_tokens"] == alone["trained_tokens"]
  assert sizes[1] < 0.85 * sizes[0]
  for name in ("loss", "entropy", "ratio"):
    np.testing.assert_allclose(together[name], alone[name], rtol=2e-3, atol=1e-5, err_msg=name)
