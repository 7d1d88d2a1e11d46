"""How often a reward model is right, on preferences that it did not learn from."""

from collections.abc import Callable, Sequence

import numpy as np

from deepseek_jax.data.preferences import Preference
from deepseek_jax.evaluate import estimators
from deepseek_jax.evaluate.figures import Figure, figure

PAIRS, LABELS = "pair_accuracy", "label_accuracy"
Score = Callable[[Sequence[Sequence[int]]], np.ndarray]  # texts in tokens -> reward_N


def shares(score: Score, held: Sequence[Preference]) -> dict[str, np.ndarray]:
  """The share of right judgements for each prompt, of its pairs and of its labels.

  A pair is right if the chosen text has the higher reward, a label if the reward lies on its side
  of 0; equal ones, and 0, count half. What there is none of is not among the keys.
  """
  reward_N = iter(score([text for one in held for text in one.texts]))
  found: dict[str, dict[str, list[float]]] = {PAIRS: {}, LABELS: {}}
  for one in held:
    rewards = [float(next(reward_N)) for _ in one.texts]
    if one.label is None:
      lead = rewards[0] - rewards[1]
    else:
      lead = rewards[0] if one.label else -rewards[0]
    right = 0.5 * (float(np.sign(lead)) + 1)
    found[LABELS if one.label is not None else PAIRS].setdefault(one.prompt, []).append(right)
  return {
    name: np.array([np.mean(each) for each in by_prompt.values()])
    for name, by_prompt in found.items()
    if by_prompt
  }


def accuracy_figures(
  score: Score, held: Sequence[Preference], benchmark: str, stage: str, seed: int
) -> list[Figure]:
  """The accuracies with their 95 % intervals over prompts; `samples` counts pairs and labels."""
  if not held:
    return []
  labels = sum(one.label is not None for one in held)
  counts = {PAIRS: len(held) - labels, LABELS: labels}
  return [
    figure(stage, benchmark, name, estimators.share(each), counts[name], seed)
    for name, each in shares(score, held).items()
  ]
