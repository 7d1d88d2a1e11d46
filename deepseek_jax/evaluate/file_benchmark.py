"""A benchmark from a file or a dataset: {"prompt": ..., "answer": ...}, maybe "language".

Others call the former problem or question, and the latter solution; `answer` goes before that.
Two rules judge one after the other: `exact`, our own comparison of forms (see `answers.py`), and
what it does not accept `math-verify`, where that is installed (see `mathematics.py`).
"""

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from deepseek_jax.config import require
from deepseek_jax.data.records import whole_text
from deepseek_jax.evaluate import mathematics
from deepseek_jax.evaluate.answers import extract_answer, gold_answer, lenient_answer, same_answer
from deepseek_jax.evaluate.benchmark_records import benchmark_records
from deepseek_jax.tasks.holdout import split_of_text
from deepseek_jax.tasks.languages import language_share
from deepseek_jax.tasks.response import thought_of
from deepseek_jax.tasks.rounds import in_rounds
from deepseek_jax.tasks.scoring import failed
from deepseek_jax.tasks.task import SPLITS, Problem, Score, Split
from deepseek_jax.tasks.workers import Outcome

JUDGES = ("exact", "math-verify")
_PROMPTS = ("prompt", "problem", "question")
_ANSWERS = ("answer", "solution")


@dataclasses.dataclass(frozen=True)
class FileBenchmark:
  """A task (see `tasks.Task`) with as many problems as the file has lines, in one split.

  `judge` is `exact`, or `math-verify` for both rules.
  """

  name: str
  problems: tuple[Problem, ...]
  judge: str = "exact"
  divided: bool = False  # for training: a fifth is held out, by a hash of what is asked

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """Of a benchmark problem `index`, whatever the split and seed; IndexError behind the last.

    Of one that is `divided` training problems come in rounds, and held-out ones in their order.
    """
    if not self.divided:
      return self.problems[index]
    problems = self.of_split(split)
    if split == "heldout":
      return problems[index]
    return in_rounds(problems, self.name, split, index, seed)

  def of_split(self, split: Split) -> tuple[Problem, ...]:
    """The problems of a split, all of them if it is not divided; ConfigError if there is none."""
    problems = self._splits[split] if self.divided else self.problems
    require(bool(problems), f"{self.name} has no problems for the {split} split; add some.")
    return problems

  @functools.cached_property
  def _splits(self) -> dict[Split, tuple[Problem, ...]]:
    splits = [split_of_text(problem.prompt) for problem in self.problems]
    pairs = list(zip(splits, self.problems, strict=True))
    return {split: tuple(p for s, p in pairs if s == split) for split in SPLITS}

  @property
  def elsewhere(self) -> bool:
    """See `judging.elsewhere`."""
    return self.judge == "math-verify"

  def score(self, problem: Problem, text: str) -> Score:
    """Right if the final answer equals the file's; format is that there is one at all."""
    return self.score_each([problem], [text])[0]

  def score_each(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
    """See `scoring.score_each`; `judge` is the rule that accepted, or the last that did not."""
    answers = [extract_answer(text) for text in texts]
    scores, open_places = [], []
    for place, (problem, text, answer) in enumerate(zip(problems, texts, answers, strict=True)):
      right = answer is not None and same_answer(answer, problem.answer or "")
      language = language_share(thought_of(text), problem.language)
      scores.append(Score(float(right), float(answer is not None), language, judge="exact"))
      if answer is not None and not right and self.judge == "math-verify":
        open_places.append(place)
    pairs = [(problems[i].answer or "", answers[i] or "") for i in open_places]
    outcomes = mathematics.equal_each(pairs) if pairs else []
    for place, outcome in zip(open_places, outcomes, strict=True):
      scores[place] = _judged(scores[place], outcome)
    said = self.lenient_each(problems, texts, scores)
    return [dataclasses.replace(s, said=float(x)) for s, x in zip(scores, said, strict=True)]

  def lenient_each(
    self, problems: Sequence[Problem], texts: Sequence[str], scores: Sequence[Score]
  ) -> list[bool]:
    """Whether each answer is right, also where it is not in the form asked for (see `score_each`).

    `exact` takes the last number where there is no such answer; Math-Verify what it finds anywhere
    behind the thought.
    """
    wanted = [problem.answer or "" for problem in problems]
    right = [score.correct == 1 for score in scores]
    if self.judge == "exact":
      for i in [i for i, score in enumerate(scores) if score.format == 0]:
        answer = lenient_answer(texts[i])
        right[i] = answer is not None and same_answer(answer, wanted[i])
      return right
    rest = [i for i in range(len(texts)) if not right[i] and _says_more(texts[i], scores[i])]
    said = [(problems[i].data or wanted[i], texts[i].rpartition("</think>")[2]) for i in rest]
    outcomes = mathematics.said_each(said) if said else []
    for i, outcome in zip(rest, outcomes, strict=True):
      right[i] = outcome.value is True
    return right


def load_file_benchmark(
  path: str | os.PathLike[str], judge: str | None = None, split: str = "test"
) -> FileBenchmark:
  """Reads a benchmark (see `benchmark_records`).

  It is judged by `judge`, one of JUDGES; None: the best that is installed.

  Raises:
    ConfigError: a line is no problem, or has an answer that the judge cannot read at all; it is
      named. Or the judge is missing.
  """
  judge = _chosen(judge)
  name, records = benchmark_records(path, split)
  problems = tuple(
    _problem(record, f"{where},", name, number)
    for number, (where, record) in enumerate(records, start=1)
  )
  require(len(problems) > 0, f"The benchmark {path} has no problems in it.")
  if judge == "math-verify":
    _check_answers(name, problems, [f"{where}," for where, _ in records])
  return FileBenchmark(name, problems, judge)


def _field(record: dict[str, Any], names: Sequence[str], where: str) -> str:
  """The only one of these names that a record has."""
  found = [name for name in names if name in record]
  require(
    len(found) < 2, f"{where} has the fields {' and '.join(found)}; leave one that is to be asked."
  )
  return found[0] if found else names[0]


def _chosen(judge: str | None) -> str:
  """The judge, if it is there."""
  require(judge is None or judge in JUDGES, f"judge is {judge!r}; use one of {', '.join(JUDGES)}.")
  missing = "math-verify is not installed; pip install 'deepseek-jax[math]'"
  require(
    judge != "math-verify" or bool(mathematics.installed()), f"{missing}, or use judge=exact."
  )
  if judge is None and not mathematics.installed():
    print(f"{missing}. Answers are compared by their forms alone.", file=sys.stderr, flush=True)
    return "exact"
  return judge or "math-verify"


def _check_answers(name: str, problems: Sequence[Problem], places: Sequence[str]) -> None:
  """Refuses answers that Math-Verify fails on, and says how many are no mathematics."""
  outcomes = mathematics.read_each([problem.answer or "" for problem in problems])
  for problem, where, outcome in zip(problems, places, outcomes, strict=True):
    require(
      not outcome.failure,
      f'{where} has {(problem.answer or "")[:80]!r} in the field "answer", which cannot be read: '
      f"{outcome.message}.",
    )
  words = [problem.answer for problem, outcome in zip(problems, outcomes) if not outcome.value]
  if words:
    print(
      f"{len(words)} of {len(problems)} answers of {name} are no mathematics, as {words[0]!r:.60}; "
      "they are compared as text.",
      file=sys.stderr,
      flush=True,
    )


def _says_more(text: str, score: Score) -> bool:
  """Whether Math-Verify may look again at a text that was wrong as it was asked for."""
  answer = extract_answer(text)
  return answer is None or not (score.failure or mathematics.is_misread(answer))


def _judged(score: Score, outcome: Outcome) -> Score:
  """A score after Math-Verify's judgement."""
  if outcome.failure:
    return dataclasses.replace(
      failed(f"{outcome.failure}: {outcome.message}", score), judge="math-verify"
    )
  return dataclasses.replace(score, correct=float(outcome.value is True), judge="math-verify")


def _problem(record: Any, where: str, name: str, number: int) -> Problem:
  """One record's problem."""
  require(isinstance(record, dict), f"{where} is not a JSON object.")
  asked = _field(record, _PROMPTS, where)
  told = next((name for name in _ANSWERS if name in record), "answer")
  prompt, answer = record.get(asked), record.get(told)
  require(
    isinstance(prompt, str) and prompt.strip() != "", f'{where} has no text in the field "{asked}".'
  )
  require(
    isinstance(answer, (str, int, float)) and not isinstance(answer, bool),
    f'{where} has no text or number in the field "{told}".',
  )
  require(
    math.isfinite(answer) if isinstance(answer, float) else gold_answer(str(answer)) != "",
    f'{where} has {answer!r} in the field "{told}", which no answer can equal.',
  )
  language = record.get("language", "en")
  require(isinstance(language, str), f'{where} has a field "language" that is not text.')
  return Problem(
    prompt=whole_text(prompt),
    task=name,
    key=f"{name} {number}",
    language=language,
    answer=gold_answer(str(answer)),
    data=str(answer),
  )
