"""A benchmark from JSON, lines or an array: {"prompt": ..., "answer": ...}, maybe "language"."""

import dataclasses
import math
import os
from typing import Any

from deepseek_jax.config import require
from deepseek_jax.data.records import read_records, whole_text
from deepseek_jax.evaluate.answers import extract_answer, same_answer
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.languages import language_share
from deepseek_jax.tasks.response import thought_of
from deepseek_jax.tasks.task import Problem, Score, Split


@dataclasses.dataclass(frozen=True)
class FileBenchmark:
  """A task (see `tasks.Task`) with as many problems as the file has lines, in one split."""

  name: str
  problems: tuple[Problem, ...]

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """Problem `index`, whatever the split and seed; IndexError behind the last."""
    return self.problems[index]

  def score(self, problem: Problem, text: str) -> Score:
    """Right if the final answer equals the file's; format is that there is one at all."""
    answer = extract_answer(text)
    right = answer is not None and same_answer(answer, problem.answer or "")
    return Score(
      correct=float(right),
      format=float(answer is not None),
      language=language_share(thought_of(text), problem.language),
    )


def load_file_benchmark(path: str | os.PathLike[str]) -> FileBenchmark:
  """Reads a benchmark; ConfigError names the line and what is wrong with it."""
  path = local_path(path)
  problems = tuple(
    _problem(record, f"{where},", path.stem, number)
    for number, (where, record) in enumerate(read_records(path), start=1)
  )
  require(len(problems) > 0, f"The benchmark {path} has no problems in it.")
  return FileBenchmark(path.stem, problems)


def _problem(record: Any, where: str, name: str, number: int) -> Problem:
  """One record's problem."""
  require(isinstance(record, dict), f"{where} is not a JSON object.")
  require(
    isinstance(record.get("prompt"), str) and record["prompt"].strip() != "",
    f'{where} has no text in the field "prompt".',
  )
  answer = record.get("answer")
  require(
    isinstance(answer, (str, int, float)) and not isinstance(answer, bool),
    f'{where} has no text or number in the field "answer".',
  )
  require(
    math.isfinite(answer) if isinstance(answer, float) else str(answer).strip() != "",
    f'{where} has {answer!r} in the field "answer", which no answer can equal.',
  )
  language = record.get("language", "en")
  require(isinstance(language, str), f'{where} has a field "language" that is not text.')
  return Problem(
    prompt=whole_text(record["prompt"]),
    task=name,
    key=f"{name} {number}",
    language=language,
    answer=str(answer),
  )
