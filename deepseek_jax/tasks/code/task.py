"""Programming problems of a file as a task: `code:FILE.jsonl`, or `code:FILE.jsonl@all`."""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from deepseek_jax.config import ConfigError
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.code.cases import called
from deepseek_jax.tasks.code.judge import Outcome, judge
from deepseek_jax.tasks.code.problem_file import read_problems
from deepseek_jax.tasks.code.program_text import is_fenced, program_of
from deepseek_jax.tasks.code.running import DEFAULT, Limits
from deepseek_jax.tasks.code.sandbox import sandbox
from deepseek_jax.tasks.holdout import split_of_text
from deepseek_jax.tasks.languages import language_share
from deepseek_jax.tasks.response import parse_response, thought_of
from deepseek_jax.tasks.rounds import in_rounds
from deepseek_jax.tasks.scoring import failed
from deepseek_jax.tasks.task import Problem, Score, Split

_ALL = "@all"


@dataclasses.dataclass(frozen=True)
class Code:
  """The problems of a file. A fifth is held out, by a hash of what is asked.

  With `undivided` both splits have all of them, for a benchmark on which nobody trains.
  """

  name: str
  problems: tuple[Problem, ...]
  undivided: bool = False
  limits: Limits = DEFAULT
  comparable: ClassVar[bool] = False  # programs that do the same are seldom written alike
  elsewhere = True  # see tasks/judging.py

  @property
  def file(self) -> Path:
    """Where the problems come from."""
    return local_path(self.name.removeprefix("code:").removesuffix(_ALL))

  def of_split(self, split: Split) -> tuple[Problem, ...]:
    """The problems of a split; ConfigError if it has none."""
    return self._splits[split] or self._refuse(split)

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`: each problem once, in an order of the seed's, then once more in another.

    What is asked is asked as the file has it, whatever `language` says.
    """
    problems = self.of_split(split)
    return in_rounds(problems, self.name, split, index, seed)

  def score(self, problem: Problem, text: str) -> Score:
    """See `Task.score`."""
    return self.score_each([problem], [text])[0]

  def score_each(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Score]:
    """See `scoring.score_each`: correct is 1 if the program passes every case.

    The form is right if the answer stands behind a closed thought and between answer tags, or,
    without these, has a block of code.
    """
    sandbox()  # or refuse before anything runs
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
      return list(pool.map(self._score, problems, texts))

  def _score(self, problem: Problem, text: str) -> Score:
    tagged = "<answer>" in text
    form = parse_response(text) is not None if tagged else is_fenced(text)
    share = language_share(thought_of(text) if "</think>" in text else "", problem.language)
    score = Score(correct=0.0, format=float(form), language=share)
    program = program_of(text, called(problem.data))
    if program is None:
      return score
    verdict = judge(sandbox(), problem.data, program, self.limits)
    if verdict.outcome is Outcome.INFRASTRUCTURE:
      return failed(f"infrastructure: {verdict.message}", score)
    return dataclasses.replace(score, correct=float(verdict.outcome is Outcome.PASS))

  @functools.cached_property
  def _splits(self) -> dict[Split, tuple[Problem, ...]]:
    if self.undivided:
      return {"train": self.problems, "heldout": self.problems}
    found: dict[Split, list[Problem]] = {"train": [], "heldout": []}
    for problem in self.problems:
      found[split_of_text(problem.key)].append(problem)
    return {split: tuple(problems) for split, problems in found.items()}

  def _refuse(self, split: Split) -> tuple[Problem, ...]:
    raise ConfigError(
      f"{self.name} has {len(self.problems)} problems and none of the {split} split; give it more, "
      f"or add {_ALL} to its name for a benchmark on which nothing trains."
    )


def load_code(path: str) -> Code:
  """The task `code:PATH`; both splits are the whole file if `path` ends with `@all`.

  Raises:
    ConfigError: a line of the file is no problem, or programs cannot be confined on this machine.
  """
  sandbox()
  name = f"code:{path}"
  problems = read_problems(local_path(path.removesuffix(_ALL)), name)
  return Code(name, problems, undivided=path.endswith(_ALL))
