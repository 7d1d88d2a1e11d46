"""Prompts for models that read ordinary text; the mini tasks need none."""

from deepseek_jax.config import require

TEMPLATES = {
  "plain": "{question}",
  # 2501.12948, table 1.
  "r1_zero": (
    "A conversation between User and Assistant. The user asks a question, and the Assistant "
    "solves it. The assistant first thinks about the reasoning process in the mind and then "
    "provides the user with the answer. The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process "
    "here </think> <answer> answer here </answer>. User: {question}. Assistant:"
  ),
}
# What is asked further, behind an answer.
FURTHER = {"plain": "{question}", "r1_zero": " User: {question}. Assistant:"}


def apply_template(name: str, question: str) -> str:
  """The prompt that asks `question`; ConfigError names the templates there are."""
  return _filled(TEMPLATES, name, question)


def apply_further(name: str, question: str) -> str:
  """What puts a further `question` behind an answer; ConfigError as `apply_template`."""
  return _filled(FURTHER, name, question)


def _filled(templates: dict[str, str], name: str, question: str) -> str:
  require(name in templates, f"template {name!r} is unknown; use {', '.join(templates)}.")
  return templates[name].replace("{question}", question)
