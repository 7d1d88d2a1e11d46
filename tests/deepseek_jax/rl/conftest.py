"""Completions made by hand."""

import numpy as np
import pytest

from deepseek_jax.rl.completions import Completion
from deepseek_jax.tasks.task import Problem, Score


@pytest.fixture(scope="session")
def complete():
  """complete(prompt, tokens, ...) -> Completion of one layer with one active expert."""

  def make(
    prompt=(1, 2),
    tokens=(3, 4, 5),
    correct=1.0,
    form=1.0,
    language=1.0,
    truncated=False,
    problem="p",
    said=None,
  ):
    count = len(prompt) + len(tokens)
    return Completion(
      problem=Problem(prompt=problem, task="t", key=problem),
      prompt=list(prompt),
      tokens=list(tokens),
      logprobs_T=-np.arange(1, len(tokens) + 1, dtype=np.float32),
      experts_LTA=np.arange(count, dtype=np.int8).reshape(1, count, 1),
      truncated=truncated,
      text=" ".join(map(str, tokens)),
      score=Score(correct=correct, format=form, language=language, said=said),
    )

  return make
