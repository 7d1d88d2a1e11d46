"""The problems of a trial that the start model solves now and then: see `tasks/chosen.py`."""

import json
from typing import Any

from deepseek_jax.config import require
from deepseek_jax.evaluate.benchmark import open_task
from deepseek_jax.rl.grpo_job import GRPOJob
from deepseek_jax.rl.preflight.trial import Trial

LOW, HIGH = 0.2, 0.8  # shares of a problem's samples, both included


def chosen_rows(job: GRPOJob, trial: Trial) -> list[dict[str, Any]]:
  """One row for each problem solved in a share of LOW to HIGH of its samples, in their order.

  Solved is what the verifier calls correct, or, where the reward weighs `said`, what says the
  answer in whatever form. ConfigError where there is none.
  """
  solved_PJ = trial.correct_PJ
  if job.rl.rollout.reward.said > 0:
    solved_PJ = trial.said_PJ
  shares: dict[str, list[float]] = {}
  for problem, solved_J in zip(trial.problems, solved_PJ, strict=True):
    shares.setdefault(problem.key, []).extend(solved_J)
  task, rows = open_task(job.task), []
  drawn = len(trial.problems) + trial.left_out
  for index in range(drawn):
    try:
      problem = task.sample("train", index, job.seed)
    except IndexError:  # the task has no more, and began anew
      break
    solved_N = shares.pop(problem.key, [])
    share = sum(solved_N) / len(solved_N) if solved_N else -1.0
    if not LOW <= share <= HIGH:
      continue
    rows.append(
      {
        "task": job.task,
        "seed": job.seed,
        "index": index,
        "key": problem.key,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "solved": round(share, 4),
        "samples": len(solved_N),
      }
    )
  require(
    bool(rows),
    f"no problem of {drawn} is solved in {LOW:.0%} to {HIGH:.0%} of its samples; try more by "
    "--preflight_prompts, or another task.",
  )
  return rows


def lines(rows: list[dict[str, Any]]) -> str:
  """The rows as lines of JSON."""
  return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
