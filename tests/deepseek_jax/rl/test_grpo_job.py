"""What a GRPO job notes of the problems that it learns from."""

import dataclasses
from pathlib import Path

import pytest

from configs import distill_mini, r1_tiny
from deepseek_jax.config import ConfigError
from deepseek_jax.recipe.job import r1_config
from deepseek_jax.recipe.run import Run
from deepseek_jax.rl import grpo_job
from deepseek_jax.rl.distillation import distill_job, run_distill
from deepseek_jax.rl.rejection import RejectionConfig, rejection_sample
from deepseek_jax.tasks.guess import Guess
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.workdir import Workdir


@dataclasses.dataclass
class OfAFile:
  """As a task of `code:FILE.jsonl` tells it."""

  file: Path


def test_problems_that_change_under_a_run_are_noticed(tmp_path):
  file = tmp_path / "problems.jsonl"
  file.write_text("print 21\n")
  with Workdir(tmp_path / "w", {"model": {}}) as workdir:
    workdir.keep("corpus", grpo_job._fingerprint(OfAFile(file)))
    workdir.keep("corpus", grpo_job._fingerprint(OfAFile(file)))
    file.write_text("say 18!!\n")
    with pytest.raises(ConfigError, match="problems.jsonl differ"):
      workdir.keep("corpus", grpo_job._fingerprint(OfAFile(file)))


def test_a_task_without_a_file_notes_none():
  assert grpo_job._fingerprint(object()) == {}


MODEL = {
  "preset": "v3_mini", "layers": 1, "d_model": 16, "heads": 2, "dense_ff": 16, "max_context": 64,
  "moe": None, "mtp_depth": 0,
}  # fmt: skip


def in_turns(turns, task="isolated:tests.positive_task:Insisting"):
  rollout = {"prompts": 2, "group": 32, "turns": turns, "max_new": 40, "width": 64, "updates": 1}
  rollout |= {"rows": 8, "advantage": {"truncated": "keep"}}
  return grpo_job.grpo_job(
    {"model": MODEL, "task": task, "engine_batch": 64, "train": {"steps": 1},
     "rl": {"rollout": rollout, "largest_gap": 1e-4}}
  )  # fmt: skip


def test_a_job_in_turns_logs_them(tmp_path):
  grpo_job.run_grpo(in_turns(2), tmp_path / "run")
  [record] = read_metrics(tmp_path / "run" / "metrics.jsonl")
  assert 1 < record["turns"] < 2 and record["mismatch"] < 1e-4
  assert record["reply_tokens"] == pytest.approx(2 * (record["turns"] - 1))


def test_turns_that_do_not_fit_the_task_are_refused_before_anything_is_written(tmp_path):
  for job, message in (
    (in_turns(1), "the task 'positive' answers what a model says, but rl.rollout.turns is 1"),
    (in_turns(2, "mini"), "rl.rollout.turns is 2, but the task 'mini' answers nothing; make it 1"),
  ):
    with pytest.raises(ConfigError, match=message):
      grpo_job.run_grpo(job, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_what_learns_from_single_answers_refuses_a_task_that_replies(tmp_path):
  with pytest.raises(ConfigError, match="'guess' answers .* rejection sampling reads a single"):
    rejection_sample(None, None, Guess(), None, RejectionConfig(), 0)
  values = distill_mini.get_config().to_dict()
  values |= {"teacher": "nowhere", "model": {"preset": "v3_mini"}}
  values["data"] = {**values.get("data", {}), "source": "problems", "task": "guess"}
  values["traces"] = {**values["traces"], "template": "plain"}
  with pytest.raises(ConfigError, match="'guess' answers .* distillation reads a single answer"):
    run_distill(distill_job(values), tmp_path / "run")
  config = r1_tiny.get_config()
  config.task = "guess"
  with pytest.raises(ConfigError, match="'guess' answers .* the recipe of R1 reads a single"):
    Run(r1_config(config.to_dict()), tmp_path)
  config.task = "tiny"
  config.rl1.rl.rollout.turns = 3
  with pytest.raises(ConfigError, match="rl1: rl.rollout.turns is 3, but the task 'tiny'"):
    Run(r1_config(config.to_dict()), tmp_path)
