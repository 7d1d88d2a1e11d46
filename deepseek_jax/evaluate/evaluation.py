"""Evaluating a model on held-out problems under a written protocol."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.data.asking import ask
from deepseek_jax.data.conversation import stop_ids
from deepseek_jax.data.sources import fingerprint
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.dialogue import Dialogue, converse, score_dialogues
from deepseek_jax.decode.engine import Engine, SamplingParams
from deepseek_jax.decode.sampling import sample_keys
from deepseek_jax.evaluate import estimators
from deepseek_jax.evaluate.answers import extract_answer, group_answers
from deepseek_jax.evaluate.figures import Figure, figure
from deepseek_jax.evaluate.file_benchmark import FileBenchmark
from deepseek_jax.evaluate.reflection.words import count_reflection
from deepseek_jax.seeds import check_seed
from deepseek_jax.tasks.environment import Exchange, check_turns
from deepseek_jax.tasks.response import thought_of
from deepseek_jax.tasks.task import Problem, Score, Split, Task
from deepseek_jax.types import Weights

_STEP = 2**32 - 1  # of the samples' keys: a training run never gets there
_TRIES = 50  # draws per wanted problem before a task counts as exhausted


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How a benchmark is measured: all that a figure depends on besides the model.

  R1's own protocol is temperature 0.6, top-p 0.95 (2501.12948, section 3). The problems are the
  first `problems` distinct ones of a split, the same for every model and every `seed`, which
  steers the sampling only.
  """

  benchmark: str
  problems: int = 256
  samples: int = 8  # per problem
  temperature: float = 1.0
  top_p: float = 1.0
  max_new: int = 128  # in all turns together
  template: str = "plain"  # a form of `asking.ask`
  turns: int = 1  # of the model at most, where the task answers it
  judge: str = ""  # of a benchmark from a file, with its version; elsewhere the task judges
  content: str = ""  # a hash of the problems, where they come from a file: see `content_of`
  split: Split = "heldout"
  problem_seed: int = 0
  seed: int = 0

  def __post_init__(self) -> None:
    check_seed("protocol.seed", self.seed)
    require(self.problems > 0, f"protocol.problems is {self.problems}; it must be positive.")
    require(self.samples > 0, f"protocol.samples is {self.samples}; it must be positive.")
    require(self.turns > 0, f"protocol.turns is {self.turns}; it must be positive.")
    require(
      self.temperature > 0 or self.samples == 1,
      f"protocol.samples is {self.samples}; greedy samples are all alike, so it must be 1.",
    )

  @property
  def hash(self) -> str:
    """Eight hexadecimal digits of everything but the seed: figures with equal ones compare."""
    fields = {k: v for k, v in dataclasses.asdict(self).items() if k != "seed"}
    for name in ("judge", "content"):
      if not fields[name]:
        del fields[name]
    if self.turns == 1:
      del fields["turns"]
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]

  @property
  def decoding(self) -> str:
    """How tokens are chosen: `greedy`, `T=0.6`, `T=0.6 top-p=0.95`."""
    if self.temperature == 0:
      return "greedy"
    nucleus = "" if self.top_p == 1 else f" top-p={self.top_p:g}"
    return f"T={self.temperature:g}{nucleus}"

  @property
  def label(self) -> str:
    """The benchmark's name in figures: `NAME DECODING #HASH`."""
    return f"{self.benchmark} {self.decoding} #{self.hash}"


def content_of(task: Task) -> str:
  """A hash of a benchmark's problems as its file has them; nothing where they are made."""
  if isinstance(task, FileBenchmark):
    content: Any = [(p.prompt, p.language, p.data) for p in task.problems]
  elif isinstance(file := getattr(task, "file", None), Path):
    content = fingerprint([file], file)[file.name]
  else:
    return ""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def standard_protocols(base: Protocol) -> tuple[Protocol, Protocol, Protocol]:
  """The three by which every stage is measured: greedy, T = 0.6 and T = 1; else as `base`."""
  return (
    dataclasses.replace(base, temperature=0.0, samples=1, top_p=1.0),
    dataclasses.replace(base, temperature=0.6),
    dataclasses.replace(base, temperature=1.0),
  )


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Every judgement, by problem P and sample J, so that models can be compared in pairs."""

  protocol: Protocol
  problems: tuple[Problem, ...]
  texts: tuple[tuple[str, ...], ...]  # completions, by problem and sample; of turns the last
  correct_PJ: np.ndarray  # float in [0, 1]
  format_PJ: np.ndarray
  language_PJ: np.ndarray  # share of the thought's words in the prompt's language
  lengths_PJ: np.ndarray  # tokens, the stop token included
  truncated_PJ: np.ndarray  # 1 where max_new cut the sample off
  reflection_PJ: np.ndarray  # reflection words
  waits_PJ: np.ndarray  # those that mean `wait`
  checks_PJ: np.ndarray  # 1 where the thought has a word that means `check`
  lenient_PJ: np.ndarray | None = None  # right in whatever form, of problems with a known answer
  failures: tuple[tuple[str, ...], ...] = ()  # why the verifier could not judge, see `Score`
  judges: tuple[tuple[str, ...], ...] = ()  # the rule that decided, likewise
  comparable: bool = True  # equal answers can be told from different ones
  exchanges: tuple[tuple[Exchange, ...], ...] = ()  # what model and task said, likewise
  tokens: tuple[tuple[list[int], ...], ...] = ()  # completions, without the stop token

  def figures(self, stage: str) -> list[Figure]:
    """All figures of this evaluation; pass@k for k = 1 and, from two samples on, all of them."""
    protocol = self.protocol
    estimates = {metric: estimators.share(solved_P) for metric, solved_P in self.solved().items()}
    count = protocol.samples
    consensus_P = self.consensus_P() if count > 1 else None
    if consensus_P is not None:
      estimates[f"cons@{count}"] = estimators.share(consensus_P)
    estimates |= {
      "length": estimators.mean(self.lengths_PJ.mean(axis=1)),
      "reflection_words": estimators.mean(self.reflection_PJ.mean(axis=1)),
      "waits": estimators.mean(self.waits_PJ.mean(axis=1)),
      "with_check": estimators.share(self.checks_PJ.mean(axis=1)),
      "language_share": estimators.share(self.language_PJ.mean(axis=1)),
      "format": estimators.share(self.format_PJ.mean(axis=1)),
      "truncated": estimators.share(self.truncated_PJ.mean(axis=1)),
    }
    if any(map(any, self.failures)):
      failed_PJ = np.array([[why != "" for why in each] for each in self.failures], np.float64)
      estimates["unjudged"] = estimators.share(failed_PJ.mean(axis=1))
    return [
      figure(stage, protocol.label, metric, estimate, self.correct_PJ.size, protocol.seed)
      for metric, estimate in estimates.items()
    ]

  def solved(self) -> dict[str, np.ndarray]:
    """How each problem was solved, solved_P in [0, 1], by the metric that is its mean.

    pass@1 and, of two samples or more that are right or wrong, pass@J; both again as `lenient`, in
    whatever form, where the task can tell.
    """
    count, found = self.protocol.samples, {"pass@1": self.correct_PJ.mean(axis=1)}
    if count > 1 and np.isin(self.correct_PJ, (0, 1)).all():
      found[f"pass@{count}"] = estimators.pass_at_k(self.correct_PJ, count)
    if self.lenient_PJ is not None:
      found["lenient"] = self.lenient_PJ.mean(axis=1)
      if count > 1:
        found[f"lenient pass@{count}"] = estimators.pass_at_k(self.lenient_PJ, count)
    return found

  def consensus_P(self) -> np.ndarray | None:
    """Whether each problem's commonest answer is right.

    None where no answers can be counted: those of a task that says so, as programs, and of one
    whose right answers all stand in a form of its own.
    """
    rights = [t for ts, rs in zip(self.texts, self.correct_PJ) for t, r in zip(ts, rs) if r == 1]
    found = self.lenient_PJ is not None or not rights or any(map(extract_answer, rights))
    if not (self.comparable and found):
      return None
    answers = [group_answers([extract_answer(text) for text in texts]) for texts in self.texts]
    if self.lenient_PJ is not None:  # one answer is right, by whatever name the judge knows it
      answers = [
        ["the right one" if right == 1 else name for name, right in zip(names, correct)]
        for names, correct in zip(answers, self.correct_PJ, strict=True)
      ]
    return estimators.consensus(answers, self.correct_PJ)

  def records(self) -> Iterator[dict[str, Any]]:
    """Every completion with its prompt and judgement, ready for JSON."""
    for i, problem in enumerate(self.problems):
      for j, text in enumerate(self.texts[i]):
        yield {
          "benchmark": self.protocol.label,
          "key": problem.key,
          "prompt": problem.prompt,
          "sample": j,
          "completion": text,
          **({"turns": list(self.exchanges[i][j])} if self.protocol.turns > 1 else {}),
          "correct": float(self.correct_PJ[i, j]),
          "tokens": int(self.lengths_PJ[i, j]),
          "truncated": bool(self.truncated_PJ[i, j]),
          **({"judge": self.judges[i][j]} if self.judges and self.judges[i][j] else {}),
          **({"failure": self.failures[i][j]} if self.failures and self.failures[i][j] else {}),
        }

  def gain_over(self, before: "Evaluation") -> estimators.Estimate:
    """The paired difference of pass@1, over the same problems of the same protocol."""
    require(
      dataclasses.replace(self.protocol, seed=0) == dataclasses.replace(before.protocol, seed=0),
      f"{self.protocol.label} and {before.protocol.label} are different protocols; only figures "
      "of one protocol can be compared.",
    )
    return estimators.paired_difference(
      self.correct_PJ.mean(axis=1), before.correct_PJ.mean(axis=1)
    )


def evaluate(
  engine: Engine,
  weights: Weights,
  tokenizer: Tokenizer,
  task: Task,
  protocol: Protocol,
  context: int | None = None,
) -> Evaluation:
  """Samples `protocol.samples` completions of each problem and judges them.

  `context` is the model's, which exchanges in several turns must not exceed.
  """
  return evaluate_each(engine, weights, tokenizer, task, [protocol], context)[0]


def evaluate_each(
  engine: Engine,
  weights: Weights,
  tokenizer: Tokenizer,
  task: Task,
  protocols: Sequence[Protocol],
  context: int | None = None,
) -> list[Evaluation]:
  """What `evaluate` gives for each protocol, from one call of the engine, up to rounding.

  Samples of one problem go in together, whatever their protocol, so that equal prompts are computed
  once and the rows run empty only once. ConfigError where the protocols differ in their seed or in
  how turns are taken, or where the task takes none.
  """
  first = protocols[0]
  shared = {"seed": "seeds", "turns": "turns"}
  for name, several in (shared | ({"template": "templates"} if first.turns > 1 else {})).items():
    values = sorted({getattr(protocol, name) for protocol in protocols})
    require(len(values) == 1, f"The protocols have the {several} {values}; give all the same.")
  check_turns(task, first.turns, "the protocol's turns")
  problems = [draw_problems(task, protocol) for protocol in protocols]
  rules = [_rule(protocol, tokenizer) for protocol in protocols]
  orders = sorted(
    (problem, which, sample)
    for which, protocol in enumerate(protocols)
    for problem in range(protocol.problems)
    for sample in range(protocol.samples)
  )
  places_B, whiches_B, numbers_B = np.array(orders).T
  asked = [
    [ask(tokenizer, problem.prompt, protocol.template) for problem in drawn]
    for protocol, drawn in zip(protocols, problems, strict=True)
  ]
  samples = converse(
    engine,
    weights,
    task,
    tokenizer,
    [problems[w][p] for p, w, _ in orders],
    [asked[w][p] for p, w, _ in orders],
    [rules[which] for which in whiches_B],
    sample_keys(first.seed, np.uint32(_STEP), places_B, numbers_B),
    first.template,
    first.turns,
    context,
  )
  return [
    judge(task, problems[w], [samples[i] for i in np.flatnonzero(whiches_B == w)], protocol)
    for w, protocol in enumerate(protocols)
  ]


def _rule(protocol: Protocol, tokenizer: Tokenizer) -> SamplingParams:
  """How a protocol's tokens are chosen."""
  return SamplingParams(
    max_new=protocol.max_new,
    temperature=protocol.temperature,
    top_p=protocol.top_p,
    stop=stop_ids(tokenizer),
  )


def draw_problems(task: Task, protocol: Protocol) -> tuple[Problem, ...]:
  """The protocol's problems: distinct by key, in the order of the task's own counter.

  ConfigError where the task has fewer; a finite task raises IndexError behind its last problem.
  """
  found: dict[str, Problem] = {}
  for index in range(_TRIES * protocol.problems):
    try:
      problem = task.sample(protocol.split, index, protocol.problem_seed)
    except IndexError:
      break
    found.setdefault(problem.key, problem)
    if len(found) == protocol.problems:
      return tuple(found.values())
  require(
    False,
    f"protocol.problems is {protocol.problems}, but {protocol.benchmark} has only {len(found)} "
    f"distinct problems; ask for that many at most.",
  )
  raise AssertionError


def judge(
  task: Task, problems: Sequence[Problem], samples: Sequence[Dialogue], protocol: Protocol
) -> Evaluation:
  """Scores samples that lie problem after problem, as they were asked, `protocol.samples` each."""
  shape = len(problems), protocol.samples
  texts = [one.turns[-1] for one in samples]
  scores = score_dialogues(task, samples)
  words = [sum(map(count_reflection, map(thought_of, one.turns)), Counter()) for one in samples]
  said = _said(scores)

  def spread(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(shape)

  def by_problem(values: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
    size = protocol.samples
    return tuple(tuple(values[i : i + size]) for i in range(0, len(values), size))

  return Evaluation(
    protocol=protocol,
    problems=tuple(problems),
    texts=by_problem(texts),
    correct_PJ=spread([score.correct for score in scores]),
    format_PJ=spread([score.format for score in scores]),
    language_PJ=spread([score.language for score in scores]),
    lengths_PJ=spread([one.sampled for one in samples]),
    truncated_PJ=spread([one.truncated for one in samples]),
    reflection_PJ=spread([count.total() for count in words]),
    waits_PJ=spread([count["wait"] for count in words]),
    checks_PJ=spread([count["check"] > 0 for count in words]),
    lenient_PJ=None if said is None else spread(said),
    failures=by_problem([score.failure for score in scores]),
    judges=by_problem([score.judge for score in scores]),
    comparable=getattr(task, "comparable", True),
    exchanges=by_problem([tuple(one.said) for one in samples]),
    tokens=by_problem([one.tokens if one.truncated else one.tokens[:-1] for one in samples]),
  )


def _said(scores: Sequence[Score]) -> list[float] | None:
  """Whether each text says the right answer in whatever form; None if the task cannot tell."""
  known = [score.said for score in scores if score.said is not None]
  if not known:
    return None
  return [score.correct if score.said is None else score.said for score in scores]
