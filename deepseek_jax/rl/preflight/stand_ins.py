"""Stand-ins for the parts of a stage of reinforcement, with which `trial.py` tries it."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from deepseek_jax.decode.engine import Ended, Samples
from deepseek_jax.model.transformer import Transformer, forward
from deepseek_jax.tasks.environment import Exchange, Reply, reply_each
from deepseek_jax.tasks.scoring import score_each, score_exchanges
from deepseek_jax.tasks.task import Problem, Score, Split, Task
from deepseek_jax.types import Weights


class Rewards:
  """A Transform that notes the rewards and gives every group some that differ."""

  def __init__(self) -> None:
    self.given: list[np.ndarray] = []

  def __call__(self, rewards_BJ: np.ndarray, iteration: int) -> np.ndarray:
    self.given.append(np.array(rewards_BJ, np.float64))
    return np.broadcast_to(np.arange(rewards_BJ.shape[1]) % 2.0, rewards_BJ.shape)


@dataclasses.dataclass
class Timed:
  """A task whose judging and replies are timed; else it is the task.

  It is judged when all is said, so that both can be timed by themselves.
  """

  task: Task
  seconds: float = 0.0
  elsewhere = False  # see tasks/judging.py

  def __getattr__(self, name: str) -> Any:
    return getattr(self.task, name)

  def score_each(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
    """See `scoring.score_each`."""
    return self._timed(score_each, problems, texts)

  def score_exchanges(
    self, problems: Sequence[Problem], exchanges: Sequence[Exchange]
  ) -> list[Score]:
    """See `scoring.score_exchanges`."""
    return self._timed(score_exchanges, problems, exchanges)

  def reply_each(self, problems: Sequence[Problem], exchanges: Sequence[Exchange]) -> list[Reply]:
    """See `environment.reply_each`."""
    return self._timed(reply_each, problems, exchanges)

  def _timed(self, call: Callable[..., list[Any]], *given: Sequence[Any]) -> list[Any]:
    began = time.monotonic()
    found = call(self.task, *given)
    self.seconds += time.monotonic() - began
    return found


@dataclasses.dataclass(frozen=True)
class Unjudged:
  """A task of one short question, for completions that say nothing."""

  name: str

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """Always the same."""
    return Problem(prompt="?", task=self.name, key=self.name)

  def score(self, problem: Problem, text: str) -> Score:
    """Nothing is right."""
    return Score(correct=0.0, format=0.0, language=0.0, said=0.0)


@dataclasses.dataclass(frozen=True)
class Silent:
  """An engine that samples nothing: every completion is one token, as often as is allowed."""

  model: Transformer

  def generate(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    params: Any,
    keys_B: jax.Array,
    *,
    ended: Ended | None = None,
  ) -> Samples:
    """See `Engine.generate`; the weights may be abstract."""
    if ended is not None:
      for number in range(len(prompts)):
        ended(number, [0] * params.max_new, False)

    def experts(weights: Weights, tokens_BT: jax.Array) -> jax.Array:
      return forward(self.model, weights, tokens_BT, tokens_BT, tokens_BT).routing.experts_LBTA

    rows = 1 if self.model.mesh is None else self.model.mesh.size
    one = jax.ShapeDtypeStruct((rows, 1), np.int32)
    layers, _, _, active = jax.eval_shape(experts, weights, one).shape
    shape = len(prompts), params.max_new
    return Samples(
      tokens_BT=np.zeros(shape, np.int32),
      logprobs_BT=np.zeros(shape, np.float32),
      lengths_B=np.full(len(prompts), params.max_new, np.int32),
      stopped_B=np.zeros(len(prompts), bool),
      experts=tuple(
        np.full((layers, len(prompt) + params.max_new, active), -1, np.int8) for prompt in prompts
      ),
    )
