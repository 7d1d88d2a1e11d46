"""Questions without known answers as a task, `prompts:FILE.jsonl`: what a reward model is to judge.

Lines of JSON, {"prompt": TEXT}, maybe {"language": CODE}. The verifier knows form and language of
an answer; right it never is, so that the reward of such a question is what a reward model says
(`rollout.reward.learned`). In a mixture with tasks that are judged by rule they are R1's general
prompts (2501.12948, the second RL stage).
"""

import dataclasses
import functools
import json
from pathlib import Path

from deepseek_jax.config import ConfigError, require
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.holdout import split_of_text
from deepseek_jax.tasks.languages import language_share
from deepseek_jax.tasks.response import parse_response, thought_of
from deepseek_jax.tasks.rounds import in_rounds
from deepseek_jax.tasks.task import SPLITS, Problem, Score, Split


@dataclasses.dataclass(frozen=True)
class Prompts:
  """The questions of a file, a fifth of them held out by a hash of their text."""

  name: str
  problems: tuple[Problem, ...]

  @property
  def file(self) -> Path:
    """Where the questions come from."""
    return local_path(self.name.removeprefix("prompts:"))

  def sample(self, split: Split, index: int, seed: int, language: str | None = None) -> Problem:
    """See `Task.sample`: each question once, in an order of the seed's, then in another."""
    problems = self._splits[split]
    require(bool(problems), f"{self.file} has no questions for the {split} split; add some.")
    return in_rounds(problems, "prompts", split, index, seed)  # wherever the file lies

  def score(self, problem: Problem, text: str) -> Score:
    """Form and language; that it is right is not for a rule to say."""
    formed = float(parse_response(text) is not None)
    return Score(0.0, formed, language_share(thought_of(text), problem.language))

  @functools.cached_property
  def _splits(self) -> dict[Split, tuple[Problem, ...]]:
    by_split = {p.key: split_of_text(p.prompt) for p in self.problems}
    return {s: tuple(p for p in self.problems if by_split[p.key] == s) for s in SPLITS}


def load_prompts(path: str) -> Prompts:
  """The task of a file; ConfigError names the line that is no question."""
  name, file = f"prompts:{path}", local_path(path)
  try:
    lines = file.read_text(encoding="utf-8-sig").split("\n")
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f"{path} cannot be read ({error}); name a file of JSON lines.") from error
  found: dict[str, Problem] = {}
  for number, line in enumerate(lines, start=1):
    if line.strip():
      prompt, language = _question(line, f"{path}, line {number},")
      found.setdefault(prompt, Problem(prompt, name, f"{name} {prompt}", language))
  require(bool(found), f'{path} has no questions; write lines like {{"prompt": TEXT}}.')
  return Prompts(name, tuple(found.values()))


def _question(line: str, where: str) -> tuple[str, str]:
  """The prompt of a line and its language."""
  try:
    record = json.loads(line)
  except (ValueError, RecursionError) as error:
    raise ConfigError(f"{where} is not valid JSON ({error}).") from error
  prompt = record.get("prompt") if isinstance(record, dict) else None
  if not isinstance(prompt, str) or not prompt.strip():
    raise ConfigError(f"{where} has no text in a field 'prompt'.")
  language = record.get("language", "en")
  require(isinstance(language, str), f"{where} has a language that is no text.")
  return prompt, language
