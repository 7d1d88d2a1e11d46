"""A policy in words: from the command line or a file, and whether a model can be shown it."""

import re
from collections.abc import Sequence

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.asking import ask
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.paths import local_path
from deepseek_jax.tasks.task import Problem

_FILE_NAME = re.compile(r"\S*/\S*|\S+\.\w+")  # one word with a slash or a suffix


def policy_text(given: str) -> str:
  """The text of a policy that is given as such, or by the name of the file that holds it."""
  if not _FILE_NAME.fullmatch(given):
    return given
  try:
    text = local_path(given).read_text(encoding="utf-8").strip()
  except (OSError, ValueError) as error:
    raise ConfigError(
      f"the policy {given} cannot be read ({error}); name a text file in UTF-8, or give the text."
    ) from error
  require(bool(text), f"the policy {given} is an empty file; write it, or name another.")
  return text


def check_text(policy: str) -> None:
  """ConfigError unless it is nothing, or the text of a policy."""
  require(
    policy == "" or bool(policy.strip()),
    "the policy is blank; give its text, or leave it out.",
  )
  require(
    not _FILE_NAME.fullmatch(policy),
    f"the policy is {policy!r}, the name of a file; give the text that is in it.",
  )


def check_room(policy: str, tokenizer: Tokenizer, form: str, longest: int, context: int) -> None:
  """ConfigError unless a question and `longest` tokens of answer fit a context besides it."""
  if not policy:
    return
  size = len(ask(tokenizer, "?", form, policy).tokens)
  require(
    size + longest < context,
    f"the policy takes {size} tokens, which with traces.max_new, {longest}, leave no room for a "
    f"question in the teacher's context of {context}; shorten it, or make traces.max_new less.",
  )


def check_unwritten(policy: str, problems: Sequence[Problem]) -> None:
  """ConfigError where a problem's own prompt has the policy in it, which would be learnt then."""
  words = f" {' '.join(policy.split())} "
  for problem in problems if policy else ():
    require(
      words not in f" {' '.join(problem.prompt.split())} ",
      f"the policy stands in a prompt of {problem.task} already, {problem.prompt!r:.100}; take a "
      "task whose prompts are without it, or leave the policy out.",
    )
