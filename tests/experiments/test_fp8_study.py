"""The study of FP8: its runs differ in what they should, and its table says what was found."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs import pretrain_tiny
from deepseek_jax.config import to_dict
from deepseek_jax.train.checkpoint import load_weights
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.pretrain_job import pretrain_job
from deepseek_jax.train.workdir import read_config
from experiments import fp8_study
from experiments.studies import curves, plots
from tests import killing


def test_differences_are_of_the_last_quarter():
  other = np.array([9.0] * 75 + [2.0] * 25)
  found = curves.difference(np.where(np.arange(100) < 75, 1.0, 2.02), other)
  assert found.steps == 25
  assert found.loss == pytest.approx(2.02)
  assert found.relative == pytest.approx(0.01)
  assert curves.difference(other, other).largest == 0
  with pytest.raises(ValueError, match="3 and 4 steps"):
    curves.difference([1.0] * 3, [1.0] * 4)


def test_a_smoothed_curve_starts_where_the_curve_does():
  np.testing.assert_allclose(curves.smooth([3.0] * 5), [3.0] * 5)
  np.testing.assert_allclose(curves.smooth([1.0, 2.0]), [1.0, (0.9 + 2) / 1.9])


def test_the_report_holds_fp8_to_the_bound_and_to_the_noise(tmp_path, capsys):
  rng = np.random.default_rng(0)
  base = 3 + np.exp(-np.arange(200) / 40) + 0.01 * rng.normal(size=200)
  scale = {"fp8": 1.003, "bfloat16_moved": 0.9999}
  losses = {name: list(base * scale.get(name, 1.0)) for name in fp8_study.RUNS}
  fp8_study.report(losses, tmp_path)
  said = capsys.readouterr().out
  assert "fp8 lies 0.300 % from bfloat16; the bound is 0.25 %" in said
  assert "last place, 0.010 %." in said
  result = json.loads((tmp_path / "results.json").read_text())
  assert result["within"] == {"bound": False, "noise_floor": False}
  assert result["fp8"]["relative"] == pytest.approx(0.003)
  assert (tmp_path / "loss.svg").read_text().startswith("<?xml")


def test_plots_of_equal_data_are_equal_bytes(tmp_path):
  rows = [{"K": K, "promoted": 1e-4, "not_promoted": K * 1e-6} for K in (1024, 4096)]
  for name in ("a.svg", "b.svg"):
    plots.draw_promotion(rows, tmp_path / name)
  assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_one_of_the_first_weights_is_moved_by_one_unit(tmp_path):
  job, starts = pretrain_job(pretrain_tiny.get_config().to_dict()), []
  for moved in (False, True):
    for _ in range(2):  # the second time it is there already
      fp8_study.begin(job, tmp_path / str(moved), moved)
    weights = load_weights(tmp_path / str(moved) / "checkpoints")
    starts.append(jax.tree.leaves(weights.params))
  ((a, b),) = [(a, b) for a, b in zip(*starts, strict=True) if (a != b).any()]
  assert (a != b).sum() == 1
  assert b[a != b] == np.nextafter(a[a != b], np.float32(np.inf))


def test_runs_differ_in_precision_and_first_weights_alone(tmp_path, monkeypatch):
  job, jobs = pretrain_job(pretrain_tiny.get_config().to_dict()), {}
  monkeypatch.setattr(fp8_study, "run_pretrain", lambda j, d, stage: jobs.update({stage: (j, d)}))
  for name in fp8_study.RUNS:
    fp8_study.train(job, tmp_path, name)
  for name, (made, directory) in jobs.items():
    assert directory == tmp_path / name
    assert made.compute.precision == fp8_study.RUNS[name]
    assert read_config(made.init)["model"] == to_dict(job)["model"]
    again = dataclasses.replace(made, init="", compute=job.compute)
    assert again == job


def test_an_unknown_run_is_one_sentence(tmp_path):
  arguments = ["--config=configs/fp8_mini.py", f"--workdir={tmp_path}", "--runs=fp4"]
  errors = killing.run("experiments.fp8_study", arguments, tmp_path / "cache", status=2)
  assert errors.strip() == f"--runs has 'fp4'; the runs are {', '.join(fp8_study.RUNS)}."


@pytest.mark.slow
def test_the_program_trains_what_it_is_told_then_compares_all(tmp_path):
  def study(*more):
    arguments = ["--config=configs/pretrain_tiny.py", f"--workdir={tmp_path / 'study'}"]
    arguments += ["--config.train.steps=5", *more]
    killing.run("experiments.fp8_study", arguments, tmp_path / "cache")

  study("--runs=fp8,bfloat16")
  results = tmp_path / "study" / "results.json"
  assert not results.exists()
  study("--runs=bfloat16_moved")
  assert set(json.loads(results.read_text())) == {"fp8", "bfloat16", "bfloat16_moved", "within"}
  study()
  for name in fp8_study.RUNS:
    records = read_metrics(tmp_path / "study" / name / "metrics.jsonl")
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5]
  assert set(json.loads(results.read_text())) == {*fp8_study.RUNS, "within"}
