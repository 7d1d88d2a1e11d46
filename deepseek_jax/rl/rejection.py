"""Rejection sampling: a model's own answers that are fit to be learnt from (2501.12948, 2.3.3).

Right, well formed, ended, in the language of the question, not running in circles, not the same
twice, and not too many of one problem.

With a `policy` in the prompt it is the sampling of deliberative alignment (2412.16339, section 2):
the model reasons about what it reads there, its task judges whether the answer keeps to it, and
what is learnt has the question alone for a prompt, so that the policy is then known by heart.
"""

import collections
import dataclasses
import re
from collections.abc import Hashable, Sequence

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import Engine, SamplingParams
from deepseek_jax.rl.completions import Completion, draw, training_problems
from deepseek_jax.rl.written_policy import check_text, check_unwritten
from deepseek_jax.tasks.environment import refuse_turns
from deepseek_jax.tasks.response import thought_of
from deepseek_jax.tasks.task import Task
from deepseek_jax.types import Weights

_NGRAM = 6  # tokens; a loop repeats longer ones, a search that states its goal again does not

_UNREADABLE = "\ufffd"  # what tokens that are no text decode to


@dataclasses.dataclass(frozen=True)
class RejectionConfig:
  """What is sampled, and what is kept of it."""

  prompts: int = 1024
  group: int = 4  # samples per prompt
  keep: int = 2  # of one problem at most
  max_new: int = 128
  temperature: float = 1.0
  template: str = "plain"
  format: float = 1.0  # least figure of the form: 1 is one closed thought, then one closed answer
  language: float = 1.0  # least share of the thought in the problem's language
  repeated: float = 0.3  # largest share of runs of 6 tokens that occurred before in the answer
  policy: str = ""  # a text before each prompt while sampling; what is learnt is without it
  cites: str = ""  # a regular expression that occurs in the thought: that it refers to the policy

  def __post_init__(self) -> None:
    for name in ("prompts", "group", "keep", "max_new"):
      value = getattr(self, name)
      require(value > 0, f"rejection.{name} is {value}; it must be positive.")
    for name in ("format", "language", "repeated"):
      value = getattr(self, name)
      require(0 <= value <= 1, f"rejection.{name} is {value}; it must be in [0, 1].")
    check_text(self.policy)
    try:
      re.compile(self.cites)
    except re.error as error:
      raise ConfigError(
        f"rejection.cites is {self.cites!r}, no regular expression ({error}); mend it."
      ) from error


@dataclasses.dataclass(frozen=True)
class Selection:
  """What was kept, in the order sampled, and how many fell at each test.

  `counts` has sampled, kept, and the reasons in the order in which they are tried: truncated,
  malformed, wrong, uncited (with `cites`), language, repetitive, duplicate, surplus. A sample falls
  once.
  """

  kept: list[Completion]
  counts: dict[str, int]
  tokens: int  # sampled, whatever became of them

  def text(self) -> str:
    """How many were kept, and why the others were not."""
    fell = [(n, name) for name, n in self.counts.items() if n and name not in ("sampled", "kept")]
    why = ", ".join(f"{n} {name}" for n, name in fell)
    kept = f"{self.counts['kept']} of {self.counts['sampled']} samples are kept"
    return f"{kept}; {why}" if why else kept


def rejection_sample(
  engine: Engine,
  weights: Weights,
  task: Task,
  tokenizer: Tokenizer,
  config: RejectionConfig,
  seed: int,
  first: int = 0,
) -> Selection:
  """Samples training problems `first` and on, and selects; a function of its arguments alone.

  ConfigError for a task in several turns: what is kept is learnt from as one answer to a question.
  """
  refuse_turns(task, "rejection sampling")
  problems = training_problems(task, first, config.prompts, seed)
  check_unwritten(config.policy, problems)
  params = SamplingParams(max_new=config.max_new, temperature=config.temperature)
  drawn = draw(
    engine,
    weights,
    task,
    tokenizer,
    problems,
    config.group,
    params,
    (seed, first),
    config.template,
    policy=config.policy,
  )
  return select(drawn, config)


def select(completions: Sequence[Completion], config: RejectionConfig) -> Selection:
  """The completions fit to be learnt from; problems are told apart by their prompt."""
  uncited = ["uncited"] if config.cites else []
  counts = dict.fromkeys(
    [
      "sampled", "truncated", "malformed", "wrong", *uncited, "language", "repetitive", "duplicate",
      "surplus", "kept",
    ],
    0,
  )  # fmt: skip
  seen: set[tuple[str, str]] = set()
  per_problem: collections.Counter[str] = collections.Counter()
  kept = []
  for one in completions:
    counts["sampled"] += 1
    prompt, identity = one.problem.prompt, (one.problem.prompt, one.text)
    fault = _fault(one, config)
    if fault is None and identity in seen:
      fault = "duplicate"
    elif fault is None and per_problem[prompt] >= config.keep:
      fault = "surplus"
    counts[fault or "kept"] += 1
    if fault is None:
      seen.add(identity)
      per_problem[prompt] += 1
      kept.append(one)
  return Selection(kept, counts, sum(len(one.tokens) for one in completions))


def _fault(one: Completion, config: RejectionConfig) -> str | None:
  """What makes a completion unfit by itself."""
  if one.truncated:
    return "truncated"
  if one.score.format < config.format or _UNREADABLE in one.text:
    return "malformed"
  if one.score.correct < 1:
    return "wrong"
  if not re.search(config.cites, thought_of(one.text)):
    return "uncited"
  if one.score.language < config.language:
    return "language"
  if repeated_share(one.tokens) > config.repeated:
    return "repetitive"
  return None


def repeated_share(tokens: Sequence[Hashable], length: int = _NGRAM) -> float:
  """The share of runs of `length` tokens that already occurred earlier in the sequence."""
  runs = [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]
  return 1 - len(set(runs)) / len(runs) if runs else 0.0
