"""Evaluations made of completions that a test writes down."""

import numpy as np

from deepseek_jax.evaluate.evaluation import Evaluation, Protocol
from deepseek_jax.tasks.scoring import score_each


def evaluation(task, problems, texts, tokenizer=None, **protocol):
  """What comes of these completions, by problem and sample; lengths are in words without one."""
  samples = len(texts[0])
  protocol = {"problems": len(problems), "samples": samples, "max_new": 64, **protocol}
  owners = [problem for problem in problems for _ in range(samples)]
  flat = [text for row in texts for text in row]
  scores = score_each(task, owners, flat)
  read = tokenizer.encode if tokenizer else str.split
  tokens = [[read(text) for text in row] for row in texts]
  correct_PJ = np.array([score.correct for score in scores]).reshape(-1, samples)
  lengths_PJ = np.array([[float(len(own)) for own in row] for row in tokens])
  none_PJ = np.zeros_like(correct_PJ)
  return Evaluation(
    Protocol("mini", **protocol),
    tuple(problems),
    tuple(map(tuple, texts)),
    correct_PJ,
    none_PJ,
    none_PJ,
    lengths_PJ,
    none_PJ,
    none_PJ,
    none_PJ,
    none_PJ,
    tokens=tuple(map(tuple, tokens)),
  )
