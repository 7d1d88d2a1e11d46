"""Schedules against V3's published table."""

import dataclasses

import pytest

from deepseek_jax.config import ConfigError, from_dict
from deepseek_jax.train import schedule
from deepseek_jax.train.pretrain_job import pretrain_job
from deepseek_jax.train.schedule import CosineSchedule, V3Schedule, micro_batches


@dataclasses.dataclass(frozen=True)
class _Holder:
  schedule: schedule.Schedule


T, B = schedule.TRILLION, schedule.BILLION


def v3(tokens, step=10_000):
  return V3Schedule().at(step, tokens, total_steps=0)


@pytest.mark.parametrize(
  ("tokens", "rate"),
  [
    (0, 2.2e-4),
    (10 * T - 1, 2.2e-4),
    (10 * T, 2.2e-4),
    (10 * T + 2150 * B, (2.2e-4 + 2.2e-5) / 2),
    (14_300 * B, 2.2e-5),
    (14_300 * B + 333 * B - 1, 2.2e-5),
    (14_300 * B + 333 * B, 7.3e-6),
    (14_800 * B, 7.3e-6),
  ],
)
def test_v3_learning_rate(tokens, rate):
  assert v3(tokens).learning_rate == pytest.approx(rate, rel=1e-9)


def test_v3_cosine_meets_its_ends_and_never_rises():
  rates = [v3(10 * T + i * 43 * B).learning_rate for i in range(101)]
  assert rates[0] == pytest.approx(2.2e-4)
  assert rates[-1] == pytest.approx(2.2e-5)
  assert all(a >= b for a, b in zip(rates, rates[1:]))


@pytest.mark.parametrize(("step", "rate"), [(0, 1.1e-7), (999, 1.1e-4), (1999, 2.2e-4)])
def test_v3_warms_up_over_2000_steps(step, rate):
  assert v3(step * 12_582_912, step).learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(("tokens", "rows"), [(0, 3072), (469 * B, 15_360), (14 * T, 15_360)])
def test_v3_batch_ramp(tokens, rows):
  assert v3(tokens).sequences == rows


def test_v3_bias_speed_and_mtp_weight_switch_where_published():
  assert [v3(t).bias_speed for t in (0, 14_300 * B - 1, 14_300 * B)] == [1e-3, 1e-3, 0]
  assert [v3(t).mtp_weight for t in (0, 10 * T - 1, 10 * T)] == [0.3, 0.3, 0.1]


def test_v3_runs_about_243_thousand_steps():
  """Follows from the ramp being linear in tokens."""
  tokens = steps = 0
  while tokens < 14_800 * B:
    hundred = 100 * 4096 * v3(tokens).sequences
    tokens, steps = tokens + hundred, steps + 100
  assert steps == pytest.approx(243_000, rel=0.01)


def test_cosine_schedule_spans_the_run():
  rates = [CosineSchedule(peak=1.0, warmup=4, final=0.1).at(s, 0, 40) for s in range(40)]
  assert [r.learning_rate for r in rates[:4]] == [0.25, 0.5, 0.75, 1.0]
  assert rates[-1].learning_rate == pytest.approx(0.1)
  assert max(r.learning_rate for r in rates) == 1.0
  assert {r.bias_speed for r in rates} == {1e-3, 0.0}
  assert [r.mtp_weight for r in rates].index(0.1) == 28  # the first step past 0.676 of 40


def test_micro_batches_round_and_stay_in_bounds():
  assert [micro_batches(n, 512, 30) for n in (3072, 15_360, 99_999, 1)] == [6, 30, 30, 1]
  assert micro_batches(None, 512, 3) == 3


def test_a_schedule_is_told_by_its_fields():
  assert isinstance(from_dict(_Holder, {"schedule": {"peak": 1e-3}}).schedule, CosineSchedule)
  assert from_dict(_Holder, {"schedule": {"peak_rate": 1e-4}}).schedule.peak_rate == 1e-4
  with pytest.raises(ConfigError, match="schedule"):
    from_dict(_Holder, {"schedule": {"peak": 1e-3, "peak_rate": 1e-4}})


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
  "fields",
  [
    *({name: v} for name in ("peak", "final", "speed") for v in (-1.0, NAN, INF)),
    *({name: v} for name in ("still_after", "mtp_after") for v in (-0.1, 5.0, NAN)),
    {"mtp": (NAN, 0.0)},
    {"mtp": (0.1, -1.0)},
  ],
  ids=str,
)
def test_rates_and_shares_that_are_none_are_named(fields):
  name, value = next(iter(fields.items()))
  with pytest.raises(ConfigError, match=f"schedule.{name} is .*; it must be a"):
    CosineSchedule(**{"peak": 1e-3} | fields)
  if name == "peak":
    with pytest.raises(ConfigError, match="schedule.peak_rate is"):
      V3Schedule(peak_rate=value)
    values = {"model": {"preset": "v3_mini"}, "schedule": {"peak": 1e-3}, "train": {"steps": 1}}
    with pytest.raises(ConfigError, match=f"balance_weight is {value}"):
      pretrain_job(values | {"balance_weight": value})
