"""A benchmark from a file of JSON lines: {"prompt": ..., "answer": ...}, "language" if it likes."""

import dataclasses
import json
import os

from deepseek_jax.config import ConfigError, require
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
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"The benchmark {path} cannot be read ({error}).") from error
  problems = tuple(
    _problem(line, f"{path}, line {number},", path.stem, number)
    for number, line in enumerate(lines, start=1)
    if line.strip()
  )
  require(len(problems) > 0, f"The benchmark {path} has no problems in it.")
  return FileBenchmark(path.stem, problems)


def _problem(line: str, where: str, name: str, number: int) -> Problem:
  """One line's problem."""
  try:
    record = json.loads(line)
  except ValueError as error:
    raise ConfigError(f"{where} is not valid JSON ({error}).") from error
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
  language = record.get("language", "en")
  require(isinstance(language, str), f'{where} has a field "language" that is not text.')
  return Problem(
    prompt=record["prompt"],
    task=name,
    key=f"{name} {number}",
    language=language,
    answer=str(answer),
  )
