"""Trials made by hand."""

import numpy as np
import pytest

from deepseek_jax.rl.preflight.trial import Trial, Turn
from deepseek_jax.tasks.gold import Gold
from deepseek_jax.tasks.registry import load_task

TASK = load_task("chain_sum")


@pytest.fixture(scope="session")
def tried():
  """tried(field=...) -> Trial of ten problems with four samples, half of each right."""

  def make(**changes):
    shape = 10, 4
    half_PJ = np.tile([1.0, 0.0], (10, 2))
    given = {
      "problems": tuple(TASK.sample("train", i, 0) for i in range(10)),
      "correct_PJ": half_PJ,
      "said_PJ": np.full(shape, np.nan),
      "format_PJ": np.ones(shape),
      "language_PJ": np.ones(shape),
      "rewards_PJ": changes.get("correct_PJ", half_PJ),
      "truncated_PJ": np.zeros(shape),
      "lengths_PJ": np.full(shape, 20.0),
      "prompt_lengths_P": np.full(10, 8.0),
      "left_out": 0,
      "failures": {},
      "gold": Gold(problems=10, answered=10, accepted=10, form="x", controls=10),
      "turns": (Turn(9.0, 9.0, 9.0, 9.0), Turn(2.0, 1.0, 0.0, 3.0)),
      "scale": 1.0,
      "compiling": 40.0,
      "update": {"grad_norm": 1.0, "mismatch": 1e-6},
      "formless": "",
      "peak": 100,
      **changes,
    }
    return Trial(**given)

  return make
