"""samples.jsonl: what of a rollout is written, once for each step, and never too much."""

import dataclasses
import json

import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.rl.advantages import AdvantageConfig, group_advantages
from deepseek_jax.rl.reward_parts import RepetitionConfig
from deepseek_jax.rl.rewards import RewardConfig, rewards
from deepseek_jax.rl.rollout import Rollout
from deepseek_jax.rl.samples import SampleLog, SamplesConfig

CONFIG = RewardConfig(repetition=RepetitionConfig(weight=0.5, ngram=1))


@pytest.fixture
def rollout(complete):
  """Three groups of two, the second of one mind."""
  items = [
    complete(correct=1.0, problem="算 ?", tokens=(3, 3)),
    complete(correct=0.0, problem="算 ?"),
    *[complete(correct=1.0, problem="b ?")] * 2,
    complete(correct=0.0, problem="c ?", truncated=True),
    complete(correct=1.0, problem="c ?"),
  ]
  judged = rewards(items, 2, CONFIG, longest=8)
  truncated_BJ = np.array([c.truncated for c in items]).reshape(3, 2)
  advantages = group_advantages(judged.total_BJ, truncated_BJ, AdvantageConfig(truncated="keep"))
  return Rollout([], items, judged, advantages, {})


def lines(log):
  return [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]


def test_a_record_tells_the_parts_and_what_they_came_to(tmp_path, rollout):
  log = SampleLog(tmp_path, SamplesConfig(count=2))
  log.write(7, rollout)
  first, second = lines(log)
  assert first == {
    "step": 7,
    "prompt": "算 ?",
    "text": "3 3",
    "tokens": 2,
    "truncated": False,
    "parts": {"correct": 1.0, "format": 1.0, "repetition": -0.5},
    "reward": 0.85,
    "advantage": round((0.85 - 0.475) / (0.375 + 1e-6), 6),
    "kept": True,
  }
  assert second["prompt"] == "b ?" and not second["kept"] and second["advantage"] == 0
  assert "算" in log.path.read_text(encoding="utf-8"), "to be read by people"


def test_no_more_than_there_are_and_none_if_none_are_wanted(tmp_path, rollout):
  log = SampleLog(tmp_path, SamplesConfig(count=9))
  log.write(1, rollout)
  assert [r["prompt"] for r in lines(log)] == ["算 ?", "b ?", "c ?"] and lines(log)[2]["truncated"]
  none = SampleLog(tmp_path / "none", SamplesConfig(count=0))
  none.resume(0)
  none.write(1, rollout)
  assert not none.path.exists()


def test_a_resumed_run_tells_each_step_once(tmp_path, rollout):
  log = SampleLog(tmp_path, SamplesConfig(count=2))
  for step in range(1, 6):
    log.write(step, rollout)
  whole = log.path.read_bytes()
  cut = whole.rindex("算".encode()) + 1  # killed within a character
  log.path.write_bytes(whole[:cut])
  log.resume(3)
  assert [r["step"] for r in lines(log)] == [1, 1, 2, 2, 3, 3]
  for step in range(4, 6):
    log.write(step, rollout)
  assert log.path.read_bytes() == whole


def test_a_run_that_stops_keeps_what_was_said_then_and_in_no_logged_step(tmp_path, rollout):
  """With every third step logged it stops by what step 5 measured, and had sampled for step 6."""
  log = SampleLog(tmp_path, SamplesConfig(count=1))
  for step in range(1, 7):
    log.observe(step, rollout, step % 3 == 0)
  assert [r["step"] for r in lines(log)] == [3, 6]
  log.flush(5)
  assert [r["step"] for r in lines(log)] == [3, 5, 6]
  log.flush(5)
  assert [r["step"] for r in lines(log)] == [3, 5, 6]
  first = SampleLog(tmp_path / "first", SamplesConfig(count=1))
  first.path.parent.mkdir()
  for step in (1, 2):
    first.observe(step, rollout, False)
  first.flush(1)
  assert [r["step"] for r in lines(first)] == [1, 2]


def test_a_sample_cut_off_is_told_with_the_reward_that_was_learnt_from(tmp_path, rollout):
  judged = rollout.rewards
  truncated_BJ = np.array([c.truncated for c in rollout.completions]).reshape(3, 2)
  zeroed = group_advantages(judged.total_BJ, truncated_BJ, AdvantageConfig())
  log = SampleLog(tmp_path, SamplesConfig(count=3))
  log.write(1, dataclasses.replace(rollout, advantages=zeroed))
  cut = lines(log)[2]
  assert cut["truncated"] and cut["reward"] == 0 != judged.total_BJ[2, 0]
  assert cut["parts"]["format"] == 1, "as it was judged"


def test_the_file_stays_below_its_size_and_keeps_the_newest(tmp_path, rollout):
  log = SampleLog(tmp_path, SamplesConfig(count=3, megabytes=0.004))
  for step in range(1, 101):
    log.write(step, rollout)
    assert log.path.stat().st_size <= 4000
  steps = [r["step"] for r in lines(log)]
  assert steps[-1] == 100 and steps == sorted(steps) and 3 < len(steps) < 300
  tight = SampleLog(tmp_path, SamplesConfig(count=3, megabytes=1e-5))
  tight.write(101, rollout)
  assert lines(tight) == [], "not one record has so few bytes"


def test_text_that_no_file_can_hold_is_written_as_well_as_it_goes(tmp_path, complete, rollout):
  rollout.completions[0] = complete(problem="half \ud83d a pair")
  log = SampleLog(tmp_path, SamplesConfig(count=1))
  log.write(1, rollout)
  assert lines(log)[0]["prompt"] == "half ? a pair"


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"count": -1}, "samples.count is -1"),
    ({"megabytes": 0.0}, "samples.megabytes is 0.0"),
    ({"megabytes": float("nan")}, "samples.megabytes is nan"),
  ],
)
def test_bad_settings_are_refused(fields, message):
  with pytest.raises(ConfigError, match=message):
    SamplesConfig(**fields)
