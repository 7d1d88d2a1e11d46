"""Every condition that is told, by a trial that has it and no other."""

import math

import numpy as np
import pytest

from deepseek_jax.plan.flops import train_flops
from deepseek_jax.presets import preset
from deepseek_jax.rl.advantages import AdvantageConfig
from deepseek_jax.rl.preflight import machine, samples
from deepseek_jax.rl.preflight.finding import Finding, worst
from deepseek_jax.rl.preflight.headroom import Headroom
from deepseek_jax.rl.preflight.trial import Turn
from deepseek_jax.rl.rollout import RolloutConfig
from deepseek_jax.tasks.gold import Gold

SHAPE = 10, 4
ONES, ZEROS = np.ones(SHAPE), np.zeros(SHAPE)
SOUND = {
  "memory", "pass", "groups", "reward", "cut off", "lengths", "prompts", "format", "language",
  "verifier", "judging", "update", "time",
}  # fmt: skip


def share_of(count, of=40):
  """`count` ones among 40 samples, the first."""
  return (np.arange(of) < count).astype(float).reshape(SHAPE)


def everything(trial):
  """All findings of a trial but those of the memory, by name."""
  found = [
    *samples.sample_findings(trial, RolloutConfig(prompts=5, group=4, max_new=32, width=64)),
    machine.gold_finding(trial.gold),
    machine.failure_finding(trial),
    machine.update_finding(trial, 0.2),
    machine.time_finding(trial, 10, 1e9),
  ]
  return {finding.name: finding for finding in found}


CASES = {
  "nothing is right": ({"correct_PJ": ZEROS}, "pass", "red", "begin with SFT or an easier task"),
  "next to nothing is right": (
    {"correct_PJ": np.eye(1, 200).reshape(50, 4)}, "pass", "amber", "larger group",
  ),
  "all is right": ({"correct_PJ": ONES}, "pass", "amber", "harder task"),
  "no group teaches": ({"rewards_PJ": np.repeat(share_of(20)[:, :1], 4, 1)}, "groups", "red", ""),
  "few groups teach": ({"rewards_PJ": share_of(1), "correct_PJ": share_of(1)}, "groups", "amber",
                       "see the proposals"),
  "all earn the same": ({"rewards_PJ": ONES}, "reward", "red", "tells good samples"),
  "a quarter is cut off": ({"truncated_PJ": share_of(10)}, "cut off", "amber", "max_new"),
  "most are cut off": ({"truncated_PJ": share_of(33)}, "cut off", "red", "SFT on answers that end"),
  "a prompt is left out": ({"left_out": 1}, "prompts", "amber", "rl.rollout.width"),
  "most prompts are left out": ({"left_out": 11}, "prompts", "red", "rl.rollout.width"),
  "the form is missing": ({"format_PJ": ZEROS}, "format", "amber", "rl.rollout.template"),
  "the form is rare": ({"format_PJ": share_of(2)}, "format", "amber", "reward.format, 0.1, will"),
  "another language": ({"language_PJ": ZEROS}, "language", "amber", "reward.language is 0"),
  "gold that is refused": (
    {"gold": Gold(10, 10, 8, "f", refused=("'3' of 'k'",))}, "verifier", "red",
    "right answers are punished: it refuses '3' of 'k'",
  ),
  "gold that is refused once": (
    {"gold": Gold(20, 20, 19, "f", refused=("'3' of 'k'",))}, "verifier", "amber", "'3' of 'k'",
  ),
  "gold that is not read": ({"gold": Gold(10, 10, 0, "f")}, "verifier", "amber", "forms tried"),
  "a verifier that takes anything": (
    {"gold": Gold(10, 10, 10, "f", 10, 5)}, "verifier", "red", "wrong answers are rewarded",
  ),
  "a verifier that fails": ({"failures": {"time": 9}}, "judging", "red", "count as wrong"),
  "a verifier that fails once": ({"failures": {"time": 1}}, "judging", "amber", "count as wrong"),
  "no number": ({"update": {"grad_norm": math.nan, "mismatch": 0.0}}, "update", "red", "float32"),
  "another policy": ({"update": {"grad_norm": 1.0, "mismatch": 0.3}}, "update", "amber", "float32"),
  "days": ({"turns": (Turn(0, 0, 0, 0), Turn(8e3, 1.0, 0.0, 700.0))}, "time", "amber", "steps"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_condition_is_told(tried, case):
  changes, name, level, change = CASES[case]
  for field in ("format_PJ", "language_PJ", "truncated_PJ", "lengths_PJ"):
    wanted = len(changes.get("correct_PJ", ONES))
    if field not in changes and wanted != len(ONES):
      changes[field] = np.ones((wanted, 4)) * (field != "truncated_PJ")
  found = everything(tried(**changes))[name]
  assert (found.level, found.name) == (level, name)
  assert change in found.change


def test_a_sound_trial_is_green(tried):
  found = everything(tried())
  assert {name for name, f in found.items() if f.level == "green"} == SOUND - {"memory"}
  assert not any(f.change for f in found.values())


@pytest.mark.parametrize(("cut", "level"), [(8, "green"), (9, "amber"), (32, "amber"), (33, "red")])
def test_the_levels_of_truncation_lie_above_a_fifth_and_four(tried, cut, level):
  assert samples.truncation_finding(tried(truncated_PJ=share_of(cut)), 32).level == level


def test_figures_are_those_of_the_samples(tried):
  trial = tried(lengths_PJ=np.arange(40.0).reshape(SHAPE), correct_PJ=share_of(6))
  found = everything(trial)
  assert found["pass"].values["pass@1"]["value"] == pytest.approx(6 / 40)
  assert found["pass"].values["pass@4"]["value"] == pytest.approx(2 / 10)
  assert found["lengths"].values == {"0.5": 20, "0.9": 36, "0.99": 39}
  assert "in 8 every sample is wrong, in 1 every one is right" in found["groups"].figure
  assert found["groups"].values["useful"]["value"] == pytest.approx(1 / 10)
  assert found["reward"].values["std"] == pytest.approx(np.sqrt(0.15 * 0.85))
  assert found["reward"].values["std_within_groups"] == pytest.approx(0.5 / 10)


@pytest.mark.parametrize(("how", "mean"), [("zero", 0.25), ("keep", 0.5), ("mask", 0.5)])
def test_the_reward_told_is_the_one_that_would_be_learnt_from(tried, how, mean):
  """Half of the right answers are cut off, which earns nothing if that is zeroed."""
  trial = tried(rewards_PJ=share_of(20), truncated_PJ=share_of(10))
  found = samples.reward_finding(trial, AdvantageConfig(truncated=how))
  assert found.values["mean"] == pytest.approx(mean)


def test_partial_credit_has_no_pass_at_group(tried):
  found = samples.pass_finding(tried(correct_PJ=np.full(SHAPE, 0.5)))
  assert list(found.values) == ["pass@1"] and found.level == "green"


def test_samples_without_the_form_are_shown_and_said_to_be_why_none_is_right(tried):
  trial = tried(correct_PJ=ZEROS, format_PJ=ZEROS, formless="The answer\nis 3" + 200 * "!")
  found = everything(trial)
  assert "one that has not: 'The answer\\nis 3!!!" in found["format"].figure
  assert len(found["format"].line) < 300
  assert "none has the form that the verifier reads, see format" in found["pass"].change


def test_problems_that_come_twice_are_told(tried):
  found = samples.pass_finding(tried(gold=Gold(problems=7)))
  assert "only 7 problems are different" in found.figure
  assert "different" not in samples.pass_finding(tried()).figure


def test_groups_are_those_that_the_update_keeps(tried):
  """Samples that differ only in what truncation takes away teach nothing, and the reverse."""
  trial = tried(
    rewards_PJ=np.tile([1.0, 0, 0, 0], (10, 1)), truncated_PJ=np.eye(10, 4) * 0 + [1, 0, 0, 0]
  )
  levels = {
    t: samples.group_finding(trial, AdvantageConfig(truncated=t)).level for t in ("zero", "keep")
  }
  assert levels == {"zero": "red", "keep": "green"}


def test_time_is_that_of_the_settled_turn_and_scales_to_the_whole_rollout(tried):
  found = machine.time_finding(tried(scale=4.0), 10, 24e9)
  assert found.values["iteration"] == pytest.approx(4 * (2 + 1 + 3))
  assert found.values["run"] == pytest.approx(10 * 24 + 40)
  assert "as 25 % of its prompts have it" in found.figure and "take 4m40s at most" in found.figure
  assert "updates at 2 GFLOP/s" in found.figure  # 24 in 4 * 3 s


@pytest.mark.parametrize(("telling", "rounds"), [(10, 1), (4, 3), (1, 6), (0, 6)])
def test_rounds_are_as_many_as_groups_that_teach_want(tried, telling, rounds):
  """Of 10 groups `telling` differ in reward; at most 5 further rounds are drawn."""
  rewards_PJ = np.eye(1, 4) * (np.arange(10) < telling)[:, None]
  trial = tried(rewards_PJ=rewards_PJ)
  assert samples.rounds_drawn(trial, RolloutConfig(prompts=5, group=4, dynamic=5)) == rounds
  assert samples.rounds_drawn(trial, RolloutConfig(prompts=5, group=4)) == 1
  found = machine.time_finding(trial, 10, 1e9, rounds)
  assert found.values["iteration"] == pytest.approx(rounds * (2 + 1) + 3)
  assert ("rounds of sampling" in found.figure) == (rounds > 1)


def test_a_gap_that_would_end_the_run_is_red(tried):
  trial = tried()
  gap = trial.update["mismatch"]
  assert machine.update_finding(trial, 0.2, 2 * gap).level == "green"
  found = machine.update_finding(trial, 0.2, gap / 2)
  assert found.level == "red" and "rl.largest_gap" in found.change


def test_operations_are_those_of_every_sample_once_per_epoch(tried):
  config = preset("v3_mini")
  trial = tried(lengths_PJ=np.tile([2.0, 22.0], (10, 2)), scale=4.0)  # prompts have 8 tokens
  by_hand = sum(20 * n * train_flops(config, n / 2, mtp=True) for n in (10, 30))
  found = machine.update_operations(trial, config, epochs=3)
  assert found == pytest.approx(by_hand * 3 * 4 / 2)  # of two rollouts, each a quarter


def headroom(**changes):
  names = ("weights", "moments", "reference", "gradients", "temporaries", "prepared", "cache")
  given = {**dict.fromkeys(names, 100), "saved": 300}
  return Headroom(**{**given, "available": 1000, **changes})


@pytest.mark.parametrize(
  ("changes", "peak", "level", "change"),
  [
    ({}, 0, "green", ""),
    ({"temporaries": 450}, 0, "amber", "rl.rollout.rows"),
    ({"temporaries": 650}, 0, "red", "rl.rollout.rows"),
    ({"cache": 650}, 0, "red", "engine_batch"),
    ({}, 900, "amber", "rl.rollout.rows"),
    ({"available": None}, 0, "amber", "compare them yourself"),
  ],
)
def test_memory_is_red_where_it_does_not_suffice(changes, peak, level, change):
  found = machine.memory_finding(headroom(**changes), peak)
  assert found.level == level and change in found.change and "needs" in found.figure


def test_checkpoints_that_do_not_fit_are_red(tmp_path):
  absent = tmp_path / "a" / "b"
  assert machine.disk_finding(headroom(), absent, 2, 1).values["checkpoints"] == 3 * 300
  assert machine.disk_finding(headroom(), absent, 2, 1).level == "green"
  assert machine.disk_finding(headroom(saved=10**18), absent, 2, 1).level == "red"
  assert not absent.parent.exists()
  (tmp_path / "checkpoints").mkdir()
  assert "a run is there already" in machine.disk_finding(headroom(), tmp_path, 2, 1).change


def test_the_worst_level_counts():
  def of(*levels):
    return worst([Finding("x", level, "") for level in levels])

  assert of("green", "amber", "green") == "amber"
  assert of("amber", "red", "green") == "red" and of("green") == "green"


def test_a_line_has_level_name_figure_and_change():
  assert Finding("cut off", "red", "99 %", "raise it").line == "red    cut off    99 %: raise it"
  assert Finding("time", "green", "3 s").line == "green  time       3 s"
