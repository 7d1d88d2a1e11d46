"""Graphs that run: stages from outside, alone and left out, other tokens, and what it cost."""

import json

import pytest

import deepseek_jax as ds
from deepseek_jax.config import ConfigError
from deepseek_jax.recipe.digest import weights_digest
from deepseek_jax.recipe.job import r1_config, run_r1
from deepseek_jax.recipe.ledger import SUMMED, sums
from deepseek_jax.recipe.view import read_run
from deepseek_jax.train.metrics import WALL_CLOCK, read_metrics
from tests.deepseek_jax.recipe.tiny import BYTES, WORDS, save_model, values, write_lines


def run(workdir, **changes):
  """The ledger of a run, by stage."""
  summary = run_r1(r1_config(values(**changes)), workdir)
  return {entry["stage"]: entry for entry in summary.ledger()}


def steps(workdir, stage):
  """A stage's metrics without what depends on the clock."""
  rows = [r for r in read_metrics(workdir / "metrics.jsonl") if r["stage"] == stage]
  return [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of the teacher's first stages, whose base is made in it."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  return workdir, run(workdir, stages="base,r1_zero,cold_start", price_per_device_hour=2.0)


def test_a_stage_given_from_outside_is_the_stage_that_made_it(tmp_path, whole):
  workdir, ledger = whole
  ds.load(workdir, "base").save(tmp_path / "base")
  again = run(
    tmp_path / "run", stages="base,r1_zero,cold_start", base={"init": str(tmp_path / "base")}
  )
  for stage in ("r1_zero", "cold_start"):
    assert again[stage]["weights"] == ledger[stage]["weights"]
    assert again[stage]["inputs"] == ledger[stage]["inputs"]
    assert steps(tmp_path / "run", stage) == steps(workdir, stage)
  assert again["base"]["steps"] == again["base"]["train_flops"] == 0
  assert again["base"]["weights"] == ledger["base"]["weights"]
  assert (
    ds.load(tmp_path / "run", "base").logits([[1]]) == ds.load(workdir, "base").logits([[1]])
  ).all()


def test_what_was_said_in_reinforcement_is_kept_and_shown(tmp_path, whole):
  workdir, _ = whole
  (kept,) = (workdir / "rollouts").iterdir()
  said = read_metrics(kept / "samples.jsonl")
  assert kept.name == "r1_zero" and len(said) == 4 and {"prompt", "parts"} <= set(said[0])
  page = (workdir / "report.html").read_text()
  assert "Samples of r1_zero" in page and "Samples of cold_start" not in page
  (whole[0] / "stages" / "r1_zero.json").rename(tmp_path / "r1_zero.json")
  run(workdir, stages="base,r1_zero,cold_start", price_per_device_hour=2.0)
  assert read_metrics(kept / "samples.jsonl") == said  # nothing twice


def test_hashes_say_what_went_in(whole):
  workdir, ledger = whole
  assert ledger["r1_zero"]["inputs"] == {"start": ledger["base"]["weights"]}
  assert ledger["cold_start"]["inputs"]["start"] == ledger["base"]["weights"]
  assert ledger["cold_start"]["inputs"]["source"] == ledger["r1_zero"]["weights"]
  for stage, entry in ledger.items():
    assert weights_digest(ds.load(workdir, stage).weights) == entry["weights"]


def test_the_ledger_sums_to_the_run(whole):
  workdir, _ = whole
  results = json.loads((workdir / "results.json").read_text())
  rows, told = results["ledger"], sums(results["ledger"])
  assert set(SUMMED) == set(told) - {"stage"}
  for name in SUMMED:
    assert told[name] == pytest.approx(sum(row[name] for row in rows))
  assert told["seconds"] == pytest.approx(results["wall_seconds"])
  assert told["device_hours"] == pytest.approx(told["seconds"] / 3600)
  assert told["cost"] == pytest.approx(2 * told["device_hours"])
  page = (workdir / "report.html").read_text()
  assert "device_hours" in page and "<td>all</td>" in page


def test_a_price_can_be_set_afterwards(whole):
  workdir, ledger = whole
  summary = run_r1(
    r1_config(values(stages="base,r1_zero,cold_start", price_per_device_hour=4.0)), workdir
  )
  for entry in summary.ledger():
    assert entry["cost"] == pytest.approx(4 * entry["seconds"] / 3600)
  assert "cost" in summary.text() and "kept" in summary.text()


def test_a_stage_runs_alone_and_is_what_is_exported(tmp_path):
  model = save_model(tmp_path / "m")
  run(tmp_path / "run", stages="student_base,student_rl", student_base={"init": model})
  assert [p.name for p in (tmp_path / "run" / "export").iterdir()] == ["student_rl"]
  assert ds.load(tmp_path / "run").config == WORDS
  assert {f["stage"] for f in read_run(tmp_path / "run").figures} == {"student_base", "student_rl"}


def test_a_student_of_other_tokens_learns_the_teachers_text(tmp_path):
  samples = values()["distilled"]["samples"]
  changes = {
    "r1": {"init": save_model(tmp_path / "teacher")},
    "student_base": {"init": save_model(tmp_path / "student", BYTES, "byte")},
    "distilled": {"samples": samples, "epochs": 1, "length": 256, "batch": 2},
  }
  ledger = run(tmp_path / "run", stages="r1,student_base,distilled", **changes)
  kept = [json.loads(line) for line in (tmp_path / "run/samples/distilled.jsonl").open()]
  assert ledger["distilled"]["learnt"]["samples"] == len(kept) > 0
  assert all(record["text"].startswith(" ") for record in kept)
  student = ds.load(tmp_path / "run" / "export" / "distilled")
  assert student.config == BYTES and student.tokenizer.encode("é") != []
  with pytest.raises(ConfigError, match="word tokenizer"):
    ds.load(tmp_path / "run", "r1").tokenizer.encode("é")


def test_files_alone_or_beside_samples_are_learnt_and_watched(tmp_path):
  said = [{"prompt": f"sum {n} 1 ?", "text": f" {n + 1}"} for n in range(1, 9)]
  path = write_lines(tmp_path / "said.jsonl", said)
  changes = {
    "stages": "base,cold_start",
    "base": {"init": save_model(tmp_path / "m")},
    "cold_start": {"source": "none", "traces": {"path": path}, "length": 24, "batch": 2},
  }
  ledger = run(tmp_path / "run", **changes)
  assert ledger["cold_start"]["learnt"] == {"traces": 8, "traces_left_out": 0}
  assert set(ledger["cold_start"]["inputs"]) == {"start", "traces"}
  assert ledger["cold_start"]["tokens_sampled"] == 0 and ledger["cold_start"]["selection"] is None
  write_lines(tmp_path / "said.jsonl", said[1:])
  with pytest.raises(ConfigError, match="cold_start.traces said.jsonl differ"):
    run(tmp_path / "run", **changes)


def test_a_given_model_that_has_changed_is_refused(tmp_path):
  model = save_model(tmp_path / "m")
  run(tmp_path / "run", stages="base", base={"init": model})
  save_model(tmp_path / "other", seed=1)
  (tmp_path / "m").rename(tmp_path / "old")
  (tmp_path / "other").rename(tmp_path / "m")
  with pytest.raises(ConfigError, match="is not the one that this run began with"):
    from deepseek_jax.recipe.run import Run

    Run(r1_config(values(stages="base", base={"init": model})), tmp_path / "run").weights("base")
