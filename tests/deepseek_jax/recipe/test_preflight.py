"""A graph tried before it runs: with the models that are there, and by its memory without."""

import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.recipe.job import r1_config, run_r1
from deepseek_jax.recipe.preflight import job_of, judge_stages
from deepseek_jax.recipe.run import Run
from tests import killing
from tests.deepseek_jax.recipe.tiny import save_model, values

STAGES = "base,r1_zero,cold_start,rl1"


def found(config, workdir, problems=4):
  return dict(judge_stages(Run(config, workdir), problems))


def test_what_is_there_is_tried_and_of_the_others_the_memory_is_looked_at(tmp_path):
  given = r1_config(values(stages=STAGES, base={"init": save_model(tmp_path / "m")}))
  workdir = tmp_path / "run"
  before = found(given, workdir)
  assert list(before) == ["r1_zero", "rl1"] and not workdir.exists()
  names = {finding.name for finding in before["r1_zero"].findings}
  assert {"memory", "disk", "pass", "groups", "update"} <= names and not before["r1_zero"].untried
  assert {finding.name for finding in before["rl1"].findings} == {"memory", "disk"}
  assert "rl1" not in before["rl1"].untried and "cold_start" in before["rl1"].text()
  run_r1(given, workdir)
  with pytest.raises(ConfigError, match="no reinforcement before it"):
    found(given, workdir)


def test_a_stage_is_tried_with_what_the_run_has_trained(tmp_path):
  config = r1_config(values(stages="base,r1_zero"))
  assert "base, which is not trained yet" in found(config, tmp_path)["r1_zero"].untried
  run_r1(r1_config(values(stages="base")), tmp_path)
  verdict = found(config, tmp_path)["r1_zero"]
  assert not verdict.untried and verdict.trial.correct_PJ.shape == (4, 8)


def test_a_stage_as_a_job_is_what_the_recipe_runs(tmp_path):
  """Problems and rewards of the preflight's first iteration are those of the stage's."""
  config = r1_config(values(stages="base,r1_zero"))
  run = Run(config, tmp_path)
  job = job_of(run, run.node("r1_zero"))
  assert (job.rl, job.seed, job.engine_batch) == (config.r1_zero.rl, 1, config.engine_batch)
  run_r1(config, tmp_path)
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  first = next(row for row in rows if row["stage"] == "r1_zero")
  (tmp_path / "stages" / "r1_zero.json").unlink()
  trial = found(config, tmp_path, 8)["r1_zero"].trial  # of two iterations
  assert trial.correct_PJ[:4].mean() == pytest.approx(first["correct"])
  assert trial.lengths_PJ[:4].mean() == pytest.approx(first["length"])


@pytest.mark.parametrize(
  ("more", "told"),
  [
    (["--preflight_prompts=4"], "--preflight_prompts is for --preflight"),
    (["--preflight", "--preflight_out=/absent/file"], "/absent/file lies in no directory"),
  ],
)
def test_flags_that_cannot_be_are_one_sentence(tmp_path, more, told):
  arguments = ["--config=configs/r1_tiny.py", f"--workdir={tmp_path / 'run'}", *more]
  errors = killing.run("experiments.r1", arguments, None, 2)
  assert told in errors and len(errors.strip().splitlines()) == 1


def test_the_program_leaves_figures_and_nothing_else(tmp_path):
  out = tmp_path / "figures.json"
  arguments = [
    "--config=configs/r1_tiny.py", f"--workdir={tmp_path / 'run'}", "--preflight",
    f"--preflight_out={out}",
  ]  # fmt: skip
  killing.run("experiments.r1", arguments, None)
  found = json.loads(out.read_text())
  assert list(found) == ["r1_zero", "rl1", "r1", "student_rl"]
  assert not any(verdict["complete"] for verdict in found.values())
  assert list(tmp_path.iterdir()) == [out]
