"""A GRPO config set beside the same without a part of it."""

import json

import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.train.metrics import read_metrics
from experiments import grpo_study
from experiments.program import BAD_INPUT
from tests import killing
from tests.deepseek_jax.train.adapted import MODELS, write_base


@pytest.mark.parametrize(
  ("values", "mean"), [([1, 0, 0, 0, 0, 0, 2, 4], 3), ([5, 7], 7), ([3], 3), ([0, 0, 0, 9], 9)]
)
def test_it_chooses_by_the_last_quarter(values, mean):
  assert grpo_study.last_quarter(values) == mean


def test_the_other_arm_differs_in_the_fields_named_and_the_first_stays():
  values = {"lora": {"rank": 4}, "rl": {"rollout": {"dynamic": 3}}, "task": "mini"}
  before = json.dumps(values)
  other = grpo_study.changed(values, ["lora=None", "rl.rollout.dynamic=0", "task=word", "x.y=[1]"])
  assert other == {
    "lora": None, "rl": {"rollout": {"dynamic": 0}}, "task": "word", "x": {"y": [1]},
  }  # fmt: skip
  assert json.dumps(values) == before


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ("task=mini", "changes nothing"),
    ("task", "give FIELD=VALUE"),
    ("=1", "give FIELD=VALUE"),
    ("task.name=1", "task is no section"),
  ],
)
def test_a_change_that_cannot_be_read_is_refused(change, told):
  with pytest.raises(ConfigError, match=told):
    grpo_study.changed({"task": "mini"}, [change])


def test_an_arm_of_several_seeds_is_paired_with_one_run_of_the_base():
  rng = np.random.default_rng(0)
  base_RP = rng.integers(0, 5, [1, 40]) / 4
  after_RP = np.clip(base_RP + np.array([[0.5], [0.0]]), 0, 1)
  found = grpo_study.gained(after_RP, base_RP)
  assert found["gain"] == pytest.approx((after_RP.mean(axis=0) - base_RP[0]).mean())
  assert found["sure"] == 1  # the second seed gained nothing
  assert found["gain_ci95"][0] < found["gain"] < found["gain_ci95"][1]


STUDY = (
  "--config=configs/grpo_tiny.py", "--config.task=isolated:tests.positive_task:Positive",
  "--config.rl.reference_every=0", "--config.rl.peak=1e-2", "--config.lora.rank=4",
  "--config.train.steps=1", "--problems=4", "--samples=2",
)  # fmt: skip


@pytest.mark.slow
def test_both_arms_of_two_seeds_are_set_beside_the_base(tmp_path):
  base = write_base(tmp_path / "base", MODELS["v3"])
  arguments = [
    *STUDY, f"--workdir={tmp_path / 'study'}", f"--config.init={base}", "--against=lora=None",
    "--rates=1e-2,1e-3", "--against_rates=1e-3", "--seeds=0,1",
  ]  # fmt: skip
  killing.run("experiments.grpo_study", arguments, None)
  found = json.loads((tmp_path / "study" / "results.json").read_text())
  arms = found[grpo_study.WITH], found[grpo_study.WITHOUT]
  assert 0 < arms[0]["trained"] < arms[1]["trained"]
  for arm in arms:
    assert len(arm["of each"]) == len(arm["runs"]) == 2 and arm["sampled tokens"] > 0
    assert arm["gain_ci95"][0] <= arm["gain"] <= arm["gain_ci95"][1]
  assert {"gain", "gain_ci95", "sure"} == set(found["difference"])


@pytest.mark.slow
def test_the_control_learns_from_other_rewards_and_is_kept_apart(tmp_path):
  base = write_base(tmp_path / "base", MODELS["v3"])
  study = tmp_path / "study"
  arguments = [*STUDY, f"--workdir={study}", f"--config.init={base}", "--permuted"]
  arguments.append("--config.train.steps=4")
  killing.run("experiments.grpo_study", arguments, None)
  found = json.loads((study / "results.json").read_text())
  (true,), (control,) = (found[name]["runs"] for name in (grpo_study.WITH, grpo_study.PERMUTED))
  rows = [read_metrics(study / name / "metrics.jsonl") for name in (true, control)]
  assert true != control and rows[0][0]["correct"] == rows[1][0]["correct"]  # nothing is learnt yet
  norms = [[row["grad_norm"] for row in each if row["updates"]] for each in rows]
  assert all(norms) and norms[0][0] != norms[1][0]


@pytest.mark.parametrize(
  ("more", "told"),
  [
    ([], "give --against, the fields by which the other arm differs, or --permuted; one of both"),
    (["--permuted", "--against=task=mini"], "one of both"),
    (["--against=task=mini", "--seeds=x"], "--seeds is x"),
    (["--against=task=mini", "--seeds=1,0,1"], "--seeds has 1 twice"),
    (["--against=task=mini", "--problems=0"], "--problems is 0"),
    (["--against=lora.rank=5"], "lora.rank is 5"),
  ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, more, told):
  base = write_base(tmp_path / "base", MODELS["v3"])
  run = tmp_path / "study"
  arguments = [*STUDY, f"--workdir={run}", f"--config.init={base}", *more]
  errors = killing.run("experiments.grpo_study", arguments, None, status=BAD_INPUT)
  last = errors.strip().splitlines()[-1]
  assert told in last and last.endswith(".")
  assert not run.exists()
