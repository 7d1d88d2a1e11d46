"""Any dataset of reasoning-gym as a task; an extra: pip install 'deepseek-jax[reasoning-gym]'.

Its scorers run in processes of their own (see `workers.py`): some evaluate what a model wrote, and
some raise on what is no answer.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.holdout import split_of_text
from deepseek_jax.tasks.languages import language_share
from deepseek_jax.tasks.response import parse_response, thought_of
from deepseek_jax.tasks.scoring import failed
from deepseek_jax.tasks.task import Problem, Score, Split, stream
from deepseek_jax.tasks.templates import apply_template
from deepseek_jax.tasks.workers import workers

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
  elsewhere = True  # see tasks/judging.py

  def __post_init__(self) -> None:
    _generator(self.dataset, self.settings, 0)  # a wrong name fails here, not in mid-training

  @property
  def name(self) -> str:
    """Identifies the task, with what is set of it."""
    told = ", ".join(f"{name}={value!r}" for name, value in self.settings)
    return f"reasoning_gym:{self.dataset}" + (f"({told})" if told else "")

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
    return self.score_each([problem], [text])[0]

  def score_each(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
    """See `scoring.score_each`; only a text of the right form gets as far as the scorer."""
    scores, places, calls = [], [], []
    for place, (problem, text) in enumerate(zip(problems, texts, strict=True)):
      response = parse_response(text)
      language = language_share(thought_of(text), problem.language)
      scores.append(Score(correct=0.0, format=float(response is not None), language=language))
      if response is not None:
        places.append(place)
        calls.append((self.dataset, self.settings, response.answer, problem.data))
    outcomes = workers(f"{__name__}:_scorer").call(calls)
    for place, outcome in zip(places, outcomes, strict=True):
      if outcome.failure:
        scores[place] = failed(f"{outcome.failure}: {outcome.message}", scores[place])
      else:
        scores[place] = dataclasses.replace(scores[place], correct=outcome.value)
    return scores


def _scorer() -> Callable[[str, tuple[tuple[str, Any], ...], str, Any], float]:
  """In the process: a dataset's score of an answer to an entry."""
  import reasoning_gym  # noqa: F401  # here, not in the first call, whose time is limited

  def award(dataset: str, settings: tuple[tuple[str, Any], ...], answer: str, entry: Any) -> float:
    return float(_generator(dataset, settings, 0).score_answer(answer, entry))

  return award


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
