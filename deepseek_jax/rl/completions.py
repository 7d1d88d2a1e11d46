"""Drawing completions of a task's problems from a model, and judging them.

Of a task that answers (see `tasks/environment.py`) a completion is the whole exchange: what the
model said in all its turns, and between them what the task replied, which it is not trained on.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.data.asking import ask
from deepseek_jax.data.conversation import stop_ids
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.dialogue import Dialogue, converse, score_dialogues
from deepseek_jax.decode.engine import Engine, SamplingParams
from deepseek_jax.decode.sampling import sample_keys
from deepseek_jax.hosts.group import first
from deepseek_jax.tasks.environment import Exchange
from deepseek_jax.tasks.judging import Judging, elsewhere
from deepseek_jax.tasks.task import Problem, Score, Task
from deepseek_jax.types import Weights

_NAMED = 60  # letters of a problem's key that a line shows
_TRIES = 20  # problems that are looked at for each that is wanted


@dataclasses.dataclass(frozen=True)
class Completion:
  """A sampled answer to a problem, as tokens and as text, and what the verifier made of it."""

  problem: Problem
  prompt: list[int]
  tokens: list[int]  # stop tokens included, and replies
  logprobs_T: np.ndarray  # float32, of the completion; 0 of replies
  experts_LTA: np.ndarray  # met by prompt and completion, -1 where unknown
  truncated: bool
  text: str  # the model's, without stop tokens, with a thought's opening where the prompt has it
  score: Score
  replies: tuple[tuple[int, int], ...] = ()  # from where to where in `tokens` the task's stand
  exchange: Exchange = ()  # what model and task said in turns, of several

  def __len__(self) -> int:
    return len(self.prompt) + len(self.tokens)

  @functools.cached_property
  def sampled_T(self) -> np.ndarray:
    """Which of the tokens are the model's."""
    sampled_T = np.ones(len(self.tokens), bool)
    for start, end in self.replies:
      sampled_T[start:end] = False
    return sampled_T

  @property
  def sampled(self) -> int:
    """How many of the tokens are the model's."""
    return int(self.sampled_T.sum())


def training_problems(task: Task, first: int, count: int, seed: int) -> list[Problem]:
  """Training problems `first` and on. A task that ends (IndexError) starts again from its first."""
  problems: list[Problem] = []
  index, size = first, None
  while len(problems) < count:
    try:
      problems.append(task.sample("train", index if size is None else index % size, seed))
      index += 1
    except IndexError:
      require(size is None, f"The task {task.name!r} has no training problems.")
      size = _size(task, index, seed)
  return problems


def fitting_problems(
  task: Task, tokenizer: Tokenizer, first: int, count: int, seed: int, room: int, template: str
) -> tuple[list[Problem], int]:
  """Training problems from `first` on whose prompts have at most `room` tokens.

  Also how many had more. Those are told, and later problems take their places. ConfigError where
  none of many fits.
  """
  kept: list[Problem] = []
  left_out, at, shortest = 0, first, 0
  while len(kept) < count and at < first + _TRIES * count:
    wanted = count - len(kept)
    for problem in training_problems(task, at, wanted, seed):
      size = len(ask(tokenizer, problem.prompt, template).tokens)
      if size <= room:
        kept.append(problem)
        continue
      left_out, shortest = left_out + 1, min(size, shortest or size)
      print(
        f"left out: problem {_named(problem)} of {task.name} has a prompt of {size} tokens, more "
        f"than the {room} that rollout.width leaves beside rollout.max_new",
        file=sys.stderr,
        flush=True,
      )
    at += wanted
  require(
    bool(kept),
    f"No prompt of {task.name} fits: the shortest of {left_out} has {shortest} tokens, and "
    f"rollout.width less rollout.max_new is {room}; raise rollout.width.",
  )
  return kept, left_out


def _named(problem: Problem) -> str:
  """A problem's key in one short line: of a user's task it may be the whole prompt."""
  key = " ".join(problem.key.split())
  return key if len(key) <= _NAMED else f"{key[:_NAMED]}…"


def _size(task: Task, bound: int, seed: int) -> int:
  """How many training problems a task has that has not more than `bound`; at least 1."""
  low, high = 0, bound
  while low < high:
    middle = (low + high) // 2
    try:
      task.sample("train", middle, seed)
      low = middle + 1
    except IndexError:
      high = middle
  return max(low, 1)


def draw(
  engine: Engine,
  weights: Weights,
  task: Task,
  tokenizer: Tokenizer,
  problems: Sequence[Problem],
  group: int,
  params: SamplingParams,
  counter: tuple[int, int],
  template: str = "plain",
  place: int = 0,
  turns: int = 1,
  room: int | None = None,
  policy: str = "",
) -> list[Completion]:
  """`group` samples of each problem, problem by problem.

  A sample depends on the weights, its problem, `counter` (seed, step), the problem's place (in
  `problems`, the first being number `place`) and its own number in the group, and on nothing else.
  What is drawn at one counter has places of its own. Every token that ends an answer
  stops it, besides the stop tokens of `params`. `template` and `policy` are those of `asking.ask`;
  for `turns` and `room` see `converse`.
  """
  params = dataclasses.replace(params, stop=tuple({*params.stop, *stop_ids(tokenizer)}))
  places_B, numbers_B = np.divmod(np.arange(len(problems) * group), group)
  keys_B = sample_keys(*counter, place + places_B, numbers_B)
  questions = [ask(tokenizer, p.prompt, template, policy) for p in problems]
  owners = [problem for problem in problems for _ in range(group)]
  asked = [question for question in questions for _ in range(group)]
  given = (engine, weights, task, tokenizer, owners, asked, params, keys_B, template, turns, room)
  if elsewhere(task) and first():
    with Judging(task) as judging:
      drawn = converse(*given, judging.add)
      scores = score_dialogues(task, drawn, judging.scores())
  else:
    drawn = converse(*given)
    scores = score_dialogues(task, drawn)
  return [_completion(one, score) for one, score in zip(drawn, scores, strict=True)]


def _completion(drawn: Dialogue, score: Score) -> Completion:
  assert drawn.experts_LTA is not None  # of every engine that samples for training
  return Completion(
    problem=drawn.problem,
    prompt=drawn.prompt,
    tokens=drawn.tokens,
    logprobs_T=drawn.logprobs_T,
    experts_LTA=drawn.experts_LTA,
    truncated=drawn.truncated,
    text="\n".join(drawn.turns),
    score=score,
    replies=tuple(drawn.replies),
    exchange=tuple(drawn.said),
  )
