"""What is proposed, by hand: lengths, groups, prompts, and the task."""

import numpy as np
import pytest

from deepseek_jax.rl.preflight.proposals import propose, useful_groups
from deepseek_jax.rl.rollout import RolloutConfig

ROLLOUT = RolloutConfig(prompts=10, group=4, max_new=32, width=64)


def rates(*right):
  """correct_PJ of problems with that many of four samples right."""
  return np.array([[float(j < count) for j in range(4)] for count in right])


def fields_of(trial, rollout=ROLLOUT, max_context=1000):
  return [p.fields for p in propose(trial, rollout, max_context) if p.fields]


def reasons_of(trial):
  return " | ".join(p.reason for p in propose(trial, ROLLOUT, 1000))


def test_nothing_is_proposed_where_half_the_groups_teach(tried):
  assert fields_of(tried()) == []


def test_samples_cut_off_want_twice_the_length(tried):
  cut_PJ = np.tile([1.0, 0, 0, 0], (10, 1))
  trial = tried(truncated_PJ=cut_PJ, lengths_PJ=np.where(cut_PJ > 0, 32.0, 21.0))
  assert fields_of(trial) == [{"max_new": 64, "width": 96}]
  assert "25 % of the samples are cut off at 32; the others have up to 21" in reasons_of(trial)
  assert fields_of(trial, max_context=72) == [{"max_new": 40, "width": 72}]
  assert fields_of(trial, max_context=64) == []


def test_nothing_is_known_of_lengths_where_all_are_cut_off(tried):
  assert fields_of(tried(truncated_PJ=np.ones((10, 4)), lengths_PJ=np.full((10, 4), 32.0))) == []


@pytest.mark.parametrize(
  ("usual", "max_new", "wanted"),
  [
    (20, 96, {"max_new": 48, "width": 64 + 48}),
    (20, 95, None),
    (3, 32, {"max_new": 16, "width": 48 + 32}),
  ],
)
def test_short_samples_want_twice_their_length_in_whole_sixteens(tried, usual, max_new, wanted):
  rollout = RolloutConfig(prompts=10, group=4, max_new=max_new, width=64 + max_new)
  found = fields_of(tried(lengths_PJ=np.full((10, 4), float(usual))), rollout)
  assert found == ([wanted] if wanted else [])


def test_the_share_of_useful_groups_by_hand():
  """One of ten problems has one right of four, which 3 of its 6 pairs see."""
  shares = useful_groups(rates(1, *[0] * 9), (2, 4, 8))
  assert shares[2] == pytest.approx(0.1 * 3 / 6) and shares[4] == pytest.approx(0.1)
  assert shares[8] == pytest.approx(1 - 0.025**8 - 0.975**8)  # no problem has two: rates are alike
  assert list(useful_groups(rates(1, 2) / 2, (2, 4, 8))) == [2, 4]  # partial credit


def test_larger_groups_or_more_prompts_are_proposed_where_few_teach(tried):
  """Of rates that are alike, 1/40: half of the groups differ from 1 - .975^k = .5 on, k = 28."""
  trial = tried(correct_PJ=rates(1, *[0] * 9))
  assert fields_of(trial) == [{"group": 32}, {"prompts": 50}]  # 10 * .5 / .1
  assert (
    "~56 % of the groups would be useful, now 10 %; an iteration would be 8 times"
    in reasons_of(trial)
  )
  assert "instead of a larger group: 5 groups would be useful, half of 10, now 1.0" in reasons_of(
    trial
  )
  assert "9 of 10 problems were never solved" in reasons_of(trial)


def test_only_prompts_are_proposed_where_no_group_is_large_enough(tried):
  """Half of the problems always right, half never but for one: a Beta of two ends."""
  trial = tried(correct_PJ=rates(4, 4, 4, 4, 4, 1, 0, 0, 0, 0))
  assert fields_of(trial) == [{"prompts": 50}]


def test_the_group_table_says_which_estimates_are_extrapolated(tried):
  told = reasons_of(tried(correct_PJ=rates(*[2] * 10)))
  assert "of 10, by right and wrong alone: 6.7 with group 2, 10.0 with group 4, ~9.9 with" in told


def test_the_task_is_named_where_it_is_too_hard_or_too_easy(tried):
  assert "pass@1 is 0 of 40" in reasons_of(tried(correct_PJ=np.zeros((10, 4))))
  assert fields_of(tried(correct_PJ=np.zeros((10, 4)))) == []
  assert "10 of 10 problems were solved by all" in reasons_of(tried(correct_PJ=np.ones((10, 4))))


def test_a_proposal_can_be_put_on_the_command_line(tried):
  line = propose(tried(lengths_PJ=np.full((10, 4), 3.0)), ROLLOUT, 1000)[0].line
  assert line.startswith("--config.rl.rollout.max_new=16 --config.rl.rollout.width=48: 99 %")
