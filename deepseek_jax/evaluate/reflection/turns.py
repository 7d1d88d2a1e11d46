"""What a thought does behind an answer it has arrived at: goes on or not, and what that changes.

The candidates are the answers that the task's own finder sees (`Task`'s `candidates`). Where it has
none, a candidate is the last answer, in a box or a number, that stands before a reflection word or
at the end of the thought, behind the word before. Such a number need not be meant as the answer:
taken for one it is wrong, so that more wrong answers seem mended than were. What a turn is worth is
then for the counterfactual to say, in which the model itself answers at that place.

A re-check is a candidate behind which the thought has another one, or a reflection word. It comes
to the next candidate, the last one to the completion's answer as the verifier judged it; a
completion that was cut off has none, and that is wrong.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate.answers import extract_answer, lenient_answer, same_answer
from deepseek_jax.evaluate.evaluation import Evaluation
from deepseek_jax.evaluate.reflection.words import Word, find_reflection
from deepseek_jax.tasks.gold import FORMS, check_gold
from deepseek_jax.tasks.response import thought_span
from deepseek_jax.tasks.scoring import score_each
from deepseek_jax.tasks.task import Candidate, Problem, Task


class Turn(NamedTuple):
  """What came of one re-check."""

  changed: bool
  right_before: bool
  right_after: bool


@dataclasses.dataclass(frozen=True)
class Trace:
  """A completion with its candidates and reflection words, whose places are those in its text."""

  text: str
  end: int  # of the thought
  words: tuple[Word, ...]
  candidates: tuple[Candidate, ...]
  right: tuple[bool, ...]  # of the candidates
  correct: bool  # of the completion

  @functools.cached_property
  def turns(self) -> list[Turn]:
    """The re-checks, in order."""
    opened = "<think>" in self.text and "</think>" not in self.text
    last = extract_answer(self.text) or (None if opened else lenient_answer(self.text))
    answers = [*(c.answer for c in self.candidates), last or ""]
    right = [*self.right, self.correct]
    return [
      Turn(not same_answer(answers[i], answers[i + 1]), right[i], right[i + 1])
      for i in range(len(self.candidates))
      if i + 1 < len(self.candidates) or self.first_word(self.candidates[i].end) is not None
    ]

  def first_word(self, behind: int) -> Word | None:
    """The first reflection word behind a place."""
    return next((word for word in self.words if word.start >= behind), None)


def candidates_of(task: Task, problem: Problem, thought: str) -> list[Candidate]:
  """The answers that a thought arrives at, in order; see the head of the file.

  ConfigError where the task's own finder fails, or finds what is not in the thought.
  """
  find = getattr(task, "candidates", None)
  try:
    found = None if find is None else find(problem, thought)
    own = None if found is None else sorted(found, key=lambda c: (c.start, c.end))
    sound = own is None or all(0 <= c.start <= c.end <= len(thought) for c in own)
  except Exception as error:  # whatever a stranger's code raises
    raise ConfigError(
      f"task {task.name!r}: its candidates of {problem.key!r:.60} failed ({error!r:.200})."
    ) from error
  if not sound:
    raise ConfigError(f"task {task.name!r}: a candidate of {problem.key!r:.60} is not in its text.")
  return before_words(thought) if own is None else own


def before_words(thought: str) -> list[Candidate]:
  """The last answer or number before each reflection word, and before the end."""
  found, at = [], 0
  for start, end in [*((w.start, w.end) for w in find_reflection(thought)), (len(thought),) * 2]:
    said = thought[at:start]
    answer = lenient_answer(said)
    if answer:
      place = at + max(0, said.rfind(answer))
      found.append(Candidate(answer, place, min(place + len(answer), start)))
    at = end
  return found


def answer_form(task: Task, evaluations: Iterable[Evaluation]) -> str:
  """The form, a value of `gold.FORMS`, in which the task's verifier takes an answer alone.

  It is the one in which it accepts the most of the answers that are known to be right: the
  problems' own, or where they have none those of completions that it called right.
  """
  known: dict[tuple[str, str], Problem] = {}
  for evaluation in evaluations:
    gold = check_gold(task, evaluation.problems)
    if gold.accepted:
      return FORMS[gold.form]
    for problem, texts, correct in zip(
      evaluation.problems, evaluation.texts, evaluation.correct_PJ
    ):
      for text, right in zip(texts, correct, strict=True):
        answer = lenient_answer(text)
        if right == 1 and answer is not None:
          known[problem.key, answer] = problem
  if not known:
    return next(iter(FORMS.values()))
  accepted = {
    form: sum(_right(task, [(p, a) for (_, a), p in known.items()], form))
    for form in FORMS.values()
  }
  return max(accepted, key=accepted.__getitem__)


def trace_each(task: Task, evaluation: Evaluation, form: str) -> list[list[Trace]]:
  """The traces of an evaluation's completions, by problem and sample."""
  traces = [
    [
      _unjudged(task, problem, text, bool(right == 1))
      for text, right in zip(texts, correct, strict=True)
    ]
    for problem, texts, correct in zip(
      evaluation.problems, evaluation.texts, evaluation.correct_PJ, strict=True
    )
  ]
  asked = {
    (p, candidate.answer): evaluation.problems[p]
    for p, row in enumerate(traces)
    for trace in row
    for candidate in trace.candidates
  }
  right = _right(task, [(problem, answer) for (_, answer), problem in asked.items()], form)
  verdicts = dict(zip(asked, right, strict=True))
  return [
    [dataclasses.replace(t, right=tuple(verdicts[p, c.answer] for c in t.candidates)) for t in row]
    for p, row in enumerate(traces)
  ]


def _unjudged(task: Task, problem: Problem, text: str, correct: bool) -> Trace:
  start, end = thought_span(text)
  thought = text[start:end]
  return Trace(
    text=text,
    end=end,
    words=tuple(Word(w.meaning, w.start + start, w.end + start) for w in find_reflection(thought)),
    candidates=tuple(
      Candidate(c.answer, c.start + start, c.end + start)
      for c in candidates_of(task, problem, thought)
    ),
    right=(),
    correct=correct,
  )


def _right(task: Task, asked: Sequence[tuple[Problem, str]], form: str) -> list[bool]:
  """Whether the verifier calls each answer right, said in that form."""
  texts = [form.format(answer) for _, answer in asked]
  scores = score_each(task, [problem for problem, _ in asked], texts) if asked else []
  return [score.correct == 1 for score in scores]
