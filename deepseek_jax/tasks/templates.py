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


def apply_template(name: str, question: str) -> str:
  """The prompt that asks `question`; ConfigError names the templates there are."""
  require(name in TEMPLATES, f"template {name!r} is unknown; use {', '.join(TEMPLATES)}.")
  return TEMPLATES[name].replace("{question}", question)
