"""Any dataset of reasoning-gym as a task; an extra: pip install 'deepseek-jax[reasoning-gym]'."""

import dataclasses
import functools
import json
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.holdout import split_of_text
from deepseek_jax.tasks.languages import language_share
from deepseek_jax.tasks.response import parse_response, thought_of
from deepseek_jax.tasks.task import Problem, Score, Split, stream
from deepseek_jax.tasks.templates import apply_template

_DRAWS = 1000  # attempts at a problem of the wanted split; one in five is the rarer split's share


@dataclasses.dataclass(frozen=True)
class ReasoningGym:
  """A dataset of reasoning-gym, its generator and its scorer.

  `settings` are the fields of the dataset's own configuration, as (name, value) pairs. A problem
  is held out by a hash of its question, so that equal questions always fall to one split.
  """

  dataset: str
  settings: tuple[tuple[str, Any], ...] = ()
  template: str = "r1_zero"

  def __post_init__(self) -> None:
    _generator(self.dataset, self.settings, 0)  # a wrong name fails here, not in mid-training

  @property
  def name(self) -> str:
    """Identifies the task."""
    return f"reasoning_gym:{self.dataset}"

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`. The questions are English, whatever `language` says."""
    rng = stream(seed, self.name, split, index)
    for _ in range(_DRAWS):
      entry = _generator(self.dataset, self.settings, rng.getrandbits(31))[0]
      question = str(entry["question"])
      if split_of_text(question) == split:
        return Problem(
          prompt=apply_template(self.template, question),
          task=self.name,
          key=f"{self.name} {question}",
          language="en",
          data=entry,
          answer=None if entry["answer"] is None else str(entry["answer"]),
        )
    raise ConfigError(f"{self.name} has too few different problems for a {split} split.")

  def score(self, problem: Problem, text: str) -> Score:
    """The dataset's own score of the text between the answer tags."""
    response = parse_response(text)
    language = language_share(thought_of(text), problem.language)
    if response is None:
      return Score(correct=0.0, format=0.0, language=language)
    scorer = _generator(self.dataset, self.settings, 0)
    value = float(scorer.score_answer(response.answer, problem.data))
    return Score(correct=min(max(value, 0.0), 1.0), format=1.0, language=language)


@functools.lru_cache(maxsize=64)
def _generator(dataset: str, settings: tuple[tuple[str, Any], ...], seed: int) -> Any:
  """reasoning-gym's dataset of one problem for a seed."""
  try:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS
  except ImportError as error:
    raise ConfigError(
      "reasoning-gym is not installed; pip install 'deepseek-jax[reasoning-gym]'."
    ) from error
  if dataset not in DATASETS:
    raise ConfigError(f"reasoning-gym has no dataset {dataset!r}; e.g. countdown or chain_sum.")
  try:
    return reasoning_gym.create_dataset(dataset, size=1, seed=seed, **dict(settings))
  except (TypeError, AssertionError) as error:
    raise ConfigError(
      f"reasoning-gym refuses {json.dumps(dict(settings), default=str)} for {dataset!r}: {error}"
    ) from error
