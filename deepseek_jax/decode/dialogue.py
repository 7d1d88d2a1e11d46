"""Samples in several turns: what the model says, what its task replies, and how it goes on.

Tokens stay what they were: a reply's are appended to those that were sampled, and the model reads
all of them again, so that nothing it said is spelled anew. Turn after turn all samples that go on
are one call of the engine. A sample hangs on its own prompt, key and replies, as in one turn.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from deepseek_jax.config import ConfigError
from deepseek_jax.data.asking import ask_further, spoken
from deepseek_jax.data.conversation import Prompt
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import Engine, Params, Samples, SamplingParams
from deepseek_jax.decode.sampling import turn_keys
from deepseek_jax.hosts import group
from deepseek_jax.tasks.environment import Reply, reply_each
from deepseek_jax.tasks.scoring import failed, score_exchanges, tell_failures
from deepseek_jax.tasks.task import Problem, Score, Task, takes_turns
from deepseek_jax.types import Weights

# (place, problem, what model and task said): told of a sample of which all is said.
Done = Callable[[int, Problem, tuple[str, ...]], None]


@dataclasses.dataclass
class Dialogue:
  """A sample: all that follows its prompt, turn by turn as it grows.

  `max_new` of its parameters is of all turns together. It is `truncated` if that number, or the
  room there is, cuts a turn off or leaves none behind a reply.
  """

  problem: Problem
  prompt: list[int]
  params: SamplingParams
  tokens: list[int] = dataclasses.field(default_factory=list)  # the replies' among them
  logprobs_T: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
  experts_LTA: np.ndarray | None = None  # of prompt and tokens: those met when the next was sampled
  replies: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # where in `tokens`
  said: list[str] = dataclasses.field(default_factory=list)  # by model and task, in turns
  truncated: bool = False
  failure: str = ""  # of a reply, see `environment.Reply`

  def __len__(self) -> int:
    return len(self.prompt) + len(self.tokens)

  @property
  def sampled(self) -> int:
    """How many of the tokens are the model's."""
    return len(self.tokens) - sum(end - start for start, end in self.replies)

  @property
  def turns(self) -> tuple[str, ...]:
    """What the model said, turn by turn."""
    return tuple(self.said[::2])

  def hear(self, drawn: Samples, i: int, text: str) -> None:
    """Adds a turn of the model, sample `i` of what was drawn, whose text is `text`."""
    if drawn.experts:
      met_LTA = drawn.experts[i]
      if self.experts_LTA is not None:  # which knew nothing yet of the last token before the reply
        known = self.experts_LTA.shape[1] - 1
        met_LTA = np.concatenate([self.experts_LTA[:, :known], met_LTA[:, known:]], axis=1)
      self.experts_LTA = met_LTA
    replied_T = np.zeros(len(self.tokens) - len(self.logprobs_T), np.float32)
    new_T = drawn.logprobs_BT[i, : drawn.lengths_B[i]]
    self.logprobs_T = np.concatenate([self.logprobs_T, replied_T, new_T])
    self.tokens += drawn.completion(i)
    self.said.append(text)
    self.truncated = not drawn.stopped_B[i]

  def tell(self, reply: Prompt, text: str) -> None:
    """Adds a reply, whose text is `text`."""
    self.replies.append((len(self.tokens), len(self.tokens) + len(reply.tokens)))
    self.tokens += reply.tokens
    self.said.append(text)


@dataclasses.dataclass(frozen=True)
class _Turn:
  """What the engine is asked in a turn."""

  speakers: list[Dialogue]
  places: np.ndarray  # of each among all
  asked: Sequence[Prompt]  # what each speaks to
  params: Params


def converse(
  engine: Engine,
  weights: Weights,
  task: Task,
  tokenizer: Tokenizer,
  problems: Sequence[Problem],
  asked: Sequence[Prompt],
  params: Params,
  keys_B: jax.Array,
  template: str = "plain",
  turns: int = 1,
  room: int | None = None,
  done: Done | None = None,
) -> list[Dialogue]:
  """A sample of each problem as it was asked, in up to `turns` turns of the model.

  `room` is the most tokens that a prompt may have with all that follows it; None: any number. A
  reply that fails, or that the tokenizer cannot spell, ends its sample and no other. `done` is told
  of each of the others as soon as all of it is said, while the rest goes on.
  """
  each = [params] * len(asked) if isinstance(params, SamplingParams) else params
  samples = [
    Dialogue(problem, prompt.tokens, own)
    for problem, prompt, own in zip(problems, asked, each, strict=True)
  ]
  turn = _Turn(samples, np.arange(len(samples)), asked, params)
  for number in range(turns):
    if number:
      turn = _next(task, tokenizer, turn, template, room, done)
      if not turn.speakers:
        break
    keys = turn_keys(keys_B[turn.places], number) if number else keys_B
    prompts = [one.prompt + one.tokens for one in turn.speakers]
    if done is None:
      drawn = engine.generate(weights, prompts, turn.params, keys)
    else:
      last = number + 1 == turns or not takes_turns(task)
      ended = functools.partial(_ended, turn, tokenizer, last, done)
      drawn = engine.generate(weights, prompts, turn.params, keys, ended=ended)
    for i, (one, prompt) in enumerate(zip(turn.speakers, turn.asked)):
      one.hear(drawn, i, spoken(prompt, tokenizer.decode(drawn.answer(i))))
  return samples


def score_dialogues(
  task: Task, samples: Sequence[Dialogue], known: Mapping[int, Score] | None = None
) -> list[Score]:
  """The task's score of each sample; failures, also those of replies, are told.

  `known` are the scores of those that were judged already, by their places. Of several processes
  the first judges: a verifier that runs out of time might do so on one and not on another.
  """
  return group.from_first(lambda: _scored(task, samples, known or {}))


def _scored(task: Task, samples: Sequence[Dialogue], known: Mapping[int, Score]) -> list[Score]:
  scores = [known.get(i) or failed(f"environment: {s.failure}") for i, s in enumerate(samples)]
  whole = [i for i, one in enumerate(samples) if not one.failure and i not in known]
  problems, said = [samples[i].problem for i in whole], [tuple(samples[i].said) for i in whole]
  for i, score in zip(whole, score_exchanges(task, problems, said), strict=True):
    scores[i] = score
  tell_failures(task.name, scores)
  return scores


def _ended(
  turn: _Turn,
  tokenizer: Tokenizer,
  last: bool,
  done: Done,
  n: int,
  answer: list[int],
  stopped: bool,
) -> None:
  """Tells of a speaker that has said all: it was cut off, or the turn is the last there is."""
  if last or not stopped:
    one, text = turn.speakers[n], spoken(turn.asked[n], tokenizer.decode(answer))
    done(int(turn.places[n]), one.problem, (*one.said, text))


def _next(
  task: Task,
  tokenizer: Tokenizer,
  turn: _Turn,
  template: str,
  room: int | None,
  done: Done | None,
) -> _Turn:
  """The turn behind one in which all have spoken: of those that the task answers."""
  heard = [n for n, one in enumerate(turn.speakers) if not one.truncated and takes_turns(task)]
  speakers = [turn.speakers[n] for n in heard]
  spoken_to = [s.problem for s in speakers], [tuple(s.said) for s in speakers]
  replies = group.from_first(lambda: reply_each(task, *spoken_to))
  on, asked, params, crowded = [], [], [], 0
  for n, one, reply in zip(heard, speakers, replies, strict=True):
    further = _hear_reply(tokenizer, one, reply, template)
    left = 0 if further is None else _left(one, further, room)
    if further is not None and left > 0:
      one.tell(further, reply.text or "")
      on.append(n)
      asked.append(further)
      params.append(dataclasses.replace(one.params, max_new=left))
      continue
    one.truncated = further is not None
    crowded += one.truncated and one.sampled < one.params.max_new
    if done is not None and not one.failure:
      done(int(turn.places[n]), one.problem, tuple(one.said))
  if crowded:
    print(
      f"{crowded} of {len(heard)} replies of {task.name} leave no room in the {room} tokens there "
      "are; their samples count as cut off",
      file=sys.stderr,
      flush=True,
    )
  return _Turn([turn.speakers[n] for n in on], turn.places[on], asked, params)


def _hear_reply(tokenizer: Tokenizer, one: Dialogue, reply: Reply, template: str) -> Prompt | None:
  """What puts a reply behind what was said; None if there is none, or it failed, which is noted."""
  one.failure = reply.failure
  if reply.text is None:
    return None
  try:
    return ask_further(tokenizer, reply.text, template, one.prompt + one.tokens)
  except ConfigError as error:
    one.failure = f"text: {error}"
    return None


def _left(one: Dialogue, further: Prompt, room: int | None) -> int:
  """How many tokens a sample may have behind a reply."""
  left = one.params.max_new - one.sampled
  return left if room is None else min(left, room - len(one) - len(further.tokens))
