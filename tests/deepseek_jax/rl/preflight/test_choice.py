"""The problems that a preflight keeps: those solved now and then, as they can be drawn again."""

import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.rl.grpo_job import grpo_job
from deepseek_jax.rl.preflight.choice import chosen_rows, lines
from deepseek_jax.tasks.registry import load_task

TASK = load_task("chain_sum")
SHARES = [0.0, 0.2, 0.5, 0.8, 1.0, 0.1, 0.9, 0.2, 0.7, 0.0]


def job(**rollout):
  model = {"preset": "v3_mini", "vocab": 432}
  values = {"model": model, "train": {"steps": 1}, "task": "chain_sum"}
  return grpo_job({**values, "rl": {"rollout": rollout}})


def solved(shares):
  """Ten samples of each problem, as many of them right as its share says."""
  return np.array([[float(j < round(10 * share)) for j in range(10)] for share in shares])


def test_what_is_solved_in_a_fifth_to_four_fifths_is_kept_and_found_again(tried, tmp_path):
  rows = chosen_rows(job(), tried(correct_PJ=solved(SHARES)))
  assert [row["index"] for row in rows] == [1, 2, 3, 7, 8]
  assert [row["solved"] for row in rows] == [0.2, 0.5, 0.8, 0.2, 0.7]
  file = tmp_path / "chosen.jsonl"
  file.write_text(lines(rows))
  chosen = load_task(f"chosen:{file}")
  assert {p.key for p in chosen.problems} == {
    TASK.sample("train", i, 0).key for i in (1, 2, 3, 7, 8)
  }


def test_a_problem_that_came_twice_counts_with_all_its_samples(tried):
  problems = [TASK.sample("train", i, 0) for i in range(10)]
  problems[4] = problems[0]
  shares = [0.0, *[0.0] * 3, 1.0, *[0.0] * 5]
  rows = chosen_rows(job(), tried(problems=tuple(problems), correct_PJ=solved(shares)))
  assert [(row["index"], row["solved"], row["samples"]) for row in rows] == [(0, 0.5, 20)]


def test_where_what_is_said_is_rewarded_it_is_what_is_solved(tried):
  trial = tried(correct_PJ=solved([0.0] * 10), said_PJ=solved(SHARES))
  assert len(chosen_rows(job(reward={"said": 0.5}), trial)) == 5
  with pytest.raises(ConfigError, match="no problem of 10 is solved in 20% to 80%"):
    chosen_rows(job(), trial)


def test_a_task_that_ends_gives_what_it_has(tried, monkeypatch):
  class Ending:
    """Four problems."""

    def sample(self, split, index, seed, language=None):
      return [TASK.sample(split, i, seed) for i in range(4)][index]

  monkeypatch.setattr("deepseek_jax.rl.preflight.choice.open_task", lambda name: Ending())
  problems = tuple(TASK.sample("train", i % 4, 0) for i in range(10))
  rows = chosen_rows(job(), tried(problems=problems, correct_PJ=solved([0.5] * 10)))
  assert [row["index"] for row in rows] == [0, 1, 2, 3]
