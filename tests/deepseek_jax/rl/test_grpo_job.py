"""What a GRPO job notes of the problems that it learns from."""

import dataclasses
from pathlib import Path

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.rl import grpo_job
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
