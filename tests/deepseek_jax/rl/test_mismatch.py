"""Sampler and trainer apart: how far is measured, and corrected, and a run may not go beyond."""

import dataclasses

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.rl.reward_parts import CosineConfig, OverlongConfig, RepetitionConfig
from deepseek_jax.rl.rewards import RewardConfig
from deepseek_jax.rl.trainer import RLConfig
from deepseek_jax.train.loop import Position
from tests.deepseek_jax.rl.bandit import CONFIG, begin, compile_parts, iterate, make_stage


@pytest.fixture(scope="module")
def compiled():
  return compile_parts()


class Biased:
  """An engine that draws like another, and records log-probabilities that are off."""

  def __init__(self, engine, bias):
    self.engine, self.bias = engine, bias

  def generate(self, weights, prompts, params, keys_B):
    drawn = self.engine.generate(weights, prompts, params, keys_B)
    inside_BT = np.arange(drawn.tokens_BT.shape[1]) < drawn.lengths_B[:, None]
    logprobs_BT = np.where(inside_BT, drawn.logprobs_BT + np.float32(self.bias), 0)
    return dataclasses.replace(drawn, logprobs_BT=logprobs_BT.astype(np.float32))


def first_iteration(compiled, bias=0.0, **changes):
  """State, record and feed of an iteration whose sampler is off by `bias`."""
  biased = {**compiled, "engine": Biased(compiled["engine"], bias)}
  stage = make_stage(biased, config=dataclasses.replace(CONFIG, **changes))
  state, (record,) = iterate(stage, begin(compiled), 0, 1)
  return state, record, stage.feed(Position(), begin(compiled))


def test_the_mismatch_is_of_all_tokens_before_any_update(compiled):
  """Two updates and two epochs, of which only the first would know by itself."""
  given = {"epochs": 2, "largest_gap": 0.1}
  _, record, fed = first_iteration(compiled, 0.5, **given)
  for name in ("mismatch", "mismatch_mean"):
    np.testing.assert_allclose(record[name], 0.5, atol=1e-4)
  np.testing.assert_allclose(record["mismatch_kl"], np.exp(-0.5) - 0.5, atol=1e-4)
  assert "capped" not in record, "measured, not corrected"
  assert fed.limits["mismatch"].value == 0.1
  state, sound, _ = first_iteration(compiled, 0.0, **given)
  assert sound["mismatch"] < 1e-4 and abs(sound["mismatch_kl"]) < 1e-6
  plain, without, fed = first_iteration(compiled, 0.0, epochs=2)
  assert "mismatch_mean" not in without and not fed.limits
  jax.tree.map(np.testing.assert_array_equal, state, plain)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_corrected_ratio_is_the_trainers_own(compiled, level):
  """A sampler that claims less than it does: every weight is above the cap, and is the cap."""
  still = {"peak": 0.0, "bias_speed": 0.0}  # so that the second update's policy is the first's
  given = {"correction": level, "correction_cap": 1.25, **still}
  _, record, _ = first_iteration(compiled, -0.5, **given)
  _, raw, _ = first_iteration(compiled, -0.5, **still)
  assert record["capped"] == 1
  np.testing.assert_allclose([record["ratio"], raw["ratio"]], [1, np.exp(0.5)], rtol=1e-4)
  np.testing.assert_allclose(record["mismatch"], 0.5, atol=1e-4)
  _, sound, _ = first_iteration(compiled, 0.0, correction=level)
  assert sound["capped"] == 0 and sound["mismatch"] < 1e-4


def test_correction_compiles_no_second_update_or_scorer(compiled):
  first_iteration(compiled)
  before = compiled["update"]._cache_size(), compiled["score"]._cache_size()
  assert before == (1, 1)
  first_iteration(compiled, correction="token", kl_weight=0.0, reference_every=0)
  first_iteration(compiled, correction="sequence", largest_gap=1.0)
  assert (compiled["update"]._cache_size(), compiled["score"]._cache_size()) == before


FULL = dataclasses.replace(
  CONFIG,
  rollout=dataclasses.replace(
    CONFIG.rollout,
    dynamic=2,
    reward=RewardConfig(
      format=0.0,
      overlong=OverlongConfig(weight=0.5, buffer=2),
      cosine=CosineConfig(weight=0.2),
      repetition=RepetitionConfig(weight=0.1, ngram=1),
    ),
  ),
  epochs=2,
  correction="sequence",
  largest_gap=0.01,
)


def test_with_everything_on_a_run_cut_between_iterations_goes_on_bit_for_bit(compiled):
  whole, records = iterate(make_stage(compiled, config=FULL), begin(compiled), 0, 6)
  state, before = iterate(make_stage(compiled, config=FULL), begin(compiled), 0, 2)
  state = jax.tree.map(jax.numpy.array, jax.device_get(state))
  state, after = iterate(make_stage(compiled, config=FULL), state, 2, 6)
  jax.tree.map(np.testing.assert_array_equal, state, whole)
  for a, b in zip(before + after, records, strict=True):
    assert {k: v for k, v in a.items() if k != "sampling_seconds"} == {
      k: v for k, v in b.items() if k != "sampling_seconds"
    }
  assert records[0]["reward_repetition"] < 0 and records[0]["reward_overlong"] < 0


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"correction": "word"}, "rl.correction is 'word'; use one of none, token, sequence"),
    ({"correction_cap": 0.9}, "rl.correction_cap is 0.9"),
    ({"correction_cap": float("inf")}, "rl.correction_cap is inf"),
    ({"largest_gap": float("nan")}, "rl.largest_gap is nan"),
    ({"largest_gap": -1.0}, "rl.largest_gap is -1.0"),
  ],
)
def test_bad_corrections_are_refused(fields, message):
  with pytest.raises(ConfigError, match=message):
    RLConfig(**fields)
