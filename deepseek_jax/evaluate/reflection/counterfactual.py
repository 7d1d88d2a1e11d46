"""What a turn is worth: the same model goes on with a thought without it, or with one more.

  strip      cut before the first reflection word behind a candidate, and the answer opened there
  insert     at the end of a thought with a candidate, in place of its end, a word to wait
  unchanged  cut behind the word at which `strip` cuts, and gone on with: a control, which differs
             from what was said by the dice alone, and not at all if sampling is greedy

Where a thought is cut depends on nothing behind the cut, so what the model said is one sample of
how it goes on from there, and the difference of an arm from it is what the arm does. All go on
within the protocol's `max_new`, prefix and insertion included. Text is cut between tokens; white
space before the cut, and a token that lies across it, are left out.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from deepseek_jax.data.asking import ask, spoken
from deepseek_jax.data.conversation import OPENING, Prompt, encode_on, stop_ids
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import Engine, SamplingParams
from deepseek_jax.decode.sampling import sample_keys
from deepseek_jax.decode.text import Detokenizer
from deepseek_jax.evaluate.estimators import mean, share
from deepseek_jax.evaluate.evaluation import Evaluation
from deepseek_jax.evaluate.figures import Figure, figure
from deepseek_jax.evaluate.reflection.measures import FEWEST
from deepseek_jax.evaluate.reflection.turns import Trace
from deepseek_jax.tasks.scoring import score_each, tell_failures
from deepseek_jax.tasks.task import Task
from deepseek_jax.types import Weights

ARMS = ("strip", "unchanged", "insert")
WAIT = {"zh": "等等"}  # by the language of the problem; else `wait`
BOX = " \\boxed{"  # opens an answer where thoughts are not in tags
_STEP = 2**32 - 2  # of the samples' keys; the next is the evaluation's own
_CLOSING = re.compile(r"\s*</think>\s*(?:<answer>)?|\s*<answer>")


@dataclasses.dataclass(frozen=True)
class Branch:
  """A completion that went on otherwise, or again."""

  arm: str
  problem: int
  sample: int
  text: str
  cut: int  # where in the text it leaves what was said
  behind_right: bool  # the last candidate before the cut is right
  correct: float
  truncated: bool


@dataclasses.dataclass(frozen=True)
class Splice:
  """A branch before it is gone on with."""

  arm: str
  problem: int
  sample: int
  cut: int
  behind_right: bool
  tokens: list[int]  # the completion's up to the cut, and what is put there


def branch_each(
  engine: Engine,
  weights: Weights,
  tokenizer: Tokenizer,
  task: Task,
  evaluation: Evaluation,
  traces: Sequence[Sequence[Trace]],
  closing: str,
  word: str = "",
) -> list[Branch]:
  """Every arm of every completion that has it; `word` is inserted, else the language's to wait."""
  protocol = evaluation.protocol
  asked = [ask(tokenizer, problem.prompt, protocol.template) for problem in evaluation.problems]
  splices = [
    splice
    for p, row in enumerate(traces)
    for j, trace in enumerate(row)
    for splice in splices_of(tokenizer, asked[p], evaluation, p, j, trace, closing, word)
  ]
  return go_on(engine, weights, tokenizer, task, evaluation, asked, splices)


def closing_of(evaluation: Evaluation) -> str:
  """What stands between thought and answer most often; a box where there are no tags."""
  found = (_CLOSING.search(text) for texts in evaluation.texts for text in texts)
  seen = collections.Counter(match[0].rstrip() for match in found if match)
  return max(seen, key=lambda text: (seen[text], text)) if seen else BOX


def splices_of(
  tokenizer: Tokenizer,
  asked: Prompt,
  evaluation: Evaluation,
  p: int,
  j: int,
  trace: Trace,
  closing: str,
  word: str,
) -> list[Splice]:
  """The arms that a completion has, none without a candidate."""
  if not trace.candidates:
    return []
  tokens = evaluation.tokens[p][j]
  head = len(OPENING) if asked.opened else 0
  found = []

  def add(arm: str, place: int, text: str) -> None:
    kept = cut_tokens(tokenizer, tokens, place - head)
    put = encode_on(tokenizer, text, [*asked.tokens, *kept]) if text else []
    cut = head + len(tokenizer.decode(kept))
    if len(kept) + len(put) < evaluation.protocol.max_new:
      before = [r for c, r in zip(trace.candidates, trace.right, strict=True) if c.end <= place]
      found.append(Splice(arm, p, j, cut, before[-1], [*kept, *put]))

  turn = trace.first_word(trace.candidates[0].end)
  if turn is not None:
    add("strip", turn.start, closing)
    add("unchanged", turn.end, "")
  if not evaluation.truncated_PJ[p, j]:
    language = evaluation.problems[p].language
    add("insert", trace.end, f" {word or WAIT.get(language, 'wait')}")
  return found


def cut_tokens(tokenizer: Tokenizer, tokens: Sequence[int], place: int) -> list[int]:
  """The tokens whose text is that before a place, but for white space right before it.

  A token on both sides of the place is left out.
  """
  reader, text, ends = Detokenizer(tokenizer), "", [0]
  for token in tokens:
    text += reader.push([token])
    ends.append(len(text))
  text += reader.finish()
  needed = len(text[:place].rstrip())
  count = next((n for n, end in enumerate(ends) if end >= needed), len(tokens))
  return list(tokens[: count - 1 if count and ends[count] > max(place, 0) else count])


def go_on(
  engine: Engine,
  weights: Weights,
  tokenizer: Tokenizer,
  task: Task,
  evaluation: Evaluation,
  asked: Sequence[Prompt],
  splices: Sequence[Splice],
) -> list[Branch]:
  """The splices gone on with to their ends, and judged."""
  if not splices:
    return []
  protocol = evaluation.protocol
  rule = SamplingParams(
    protocol.max_new, protocol.temperature, protocol.top_p, stop=stop_ids(tokenizer)
  )
  samples = engine.generate(
    weights,
    [[*asked[s.problem].tokens, *s.tokens] for s in splices],
    [dataclasses.replace(rule, max_new=rule.max_new - len(s.tokens)) for s in splices],
    sample_keys(
      protocol.seed,
      np.uint32(_STEP),
      np.array([s.problem for s in splices]),
      np.array([len(ARMS) * s.sample + ARMS.index(s.arm) for s in splices]),
    ),
  )
  texts = [
    spoken(asked[s.problem], tokenizer.decode([*s.tokens, *samples.answer(i)]))
    for i, s in enumerate(splices)
  ]
  scores = score_each(task, [evaluation.problems[s.problem] for s in splices], texts)
  tell_failures(task.name, scores)
  return [
    Branch(s.arm, s.problem, s.sample, text, s.cut, s.behind_right, score.correct, not stopped)
    for s, text, score, stopped in zip(splices, texts, scores, samples.stopped_B, strict=True)
  ]


def effects(stage: str, evaluation: Evaluation, branches: Sequence[Branch]) -> list[Figure]:
  """pass@1 of each arm, of the same completions as they were said, and the paired difference.

  Also of those alone whose last candidate before the cut is right, or wrong. Each problem with such
  completions counts once, with their mean.
  """
  found = []
  for arm in ARMS:
    own = [branch for branch in branches if branch.arm == arm]
    found += _effect(stage, evaluation, arm, own)
    for verdict, right in (("right", True), ("wrong", False)):
      name = f"{arm} behind a {verdict} answer"
      found += _effect(stage, evaluation, name, [b for b in own if b.behind_right == right])
  return found


def _effect(
  stage: str, evaluation: Evaluation, name: str, branches: Sequence[Branch]
) -> list[Figure]:
  """The figures of some branches, none where too few problems have any."""
  by_problem: dict[int, list[Branch]] = {}
  for branch in branches:
    by_problem.setdefault(branch.problem, []).append(branch)
  if len(by_problem) < FEWEST:
    return []

  def each(of: Callable[[Branch], float]) -> np.ndarray:
    return np.array([np.mean([of(branch) for branch in own]) for own in by_problem.values()])

  said_P = each(lambda b: evaluation.correct_PJ[b.problem, b.sample])
  after_P = each(lambda b: b.correct)
  estimates = {
    "pass@1 as said": share(said_P),
    "pass@1": share(after_P),
    "truncated": share(each(lambda b: b.truncated)),
    "pass@1 over as said": mean(after_P - said_P),
  }
  protocol = evaluation.protocol
  return [
    figure(stage, protocol.label, f"{name}: {metric}", found, len(branches), protocol.seed)
    for metric, found in estimates.items()
  ]
