"""Chat templates: the text by which a model was taught who speaks.

A checkpoint brings its own as a jinja2 template, in chat_template.jinja or tokenizer_config.json,
where it may be one text or a list of named ones. It is a program by a stranger: it runs in a
sandbox (template_sandbox.py) and sees the messages and the special tokens' spellings, nothing else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.special_tokens import ASSISTANT, BOS, EOS, USER

FILE = "chat_template.jinja"
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")

# For tokenizers with DeepSeek's special tokens whose files bring no template: the form that V3 and
# R1 share. Behind the system texts the turns follow without anything between them.
DEEPSEEK = (
  "{{ '" + BOS + "' }}"
  "{{ messages | selectattr('role', 'equalto', 'system') | map(attribute='content')"
  " | join('\\n\\n') }}"
  "{% for message in messages %}"
  "{% if message.role == 'user' %}{{ '" + USER + "' ~ message.content }}"
  "{% elif message.role == 'assistant' %}"
  "{{ '" + ASSISTANT + "' ~ message.content ~ '" + EOS + "' }}"
  "{% endif %}{% endfor %}"
  "{% if add_generation_prompt %}{{ '" + ASSISTANT + "' }}{% endif %}"
)  # fmt: skip


class ChatTemplate:
  """A template with the spellings of the special tokens that it may name."""

  def __init__(self, source: str, special: Mapping[str, str], where: str):
    """`where` is named when the template fails."""
    self.source, self._special, self._where = source, dict(special), where

  def render(self, messages: Sequence[Mapping[str, str]], **variables: Any) -> str:
    """The conversation as text, up to where the assistant is to go on.

    `variables` are further names, such as `thinking`, for templates that ask for them.

    Raises:
      ConfigError: the template is broken, breaks out, does not end, or refuses the conversation.
    """
    try:
      from jinja2.exceptions import TemplateError

      from deepseek_jax.data.template_sandbox import Sandbox
    except ImportError as error:
      raise ConfigError(
        f"{self._where} is a chat template; pip install 'deepseek-jax[hf]' to use it."
      ) from error
    names: dict[str, Any] = {"messages": [dict(m) for m in messages]}
    names |= {"tools": None, "documents": None}
    names |= {"add_generation_prompt": True, **self._special, **variables}
    try:
      text = Sandbox().render(self.source, names)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError,
            RecursionError, MemoryError, SyntaxError) as error:  # fmt: skip
      told = " ".join(str(error).split()) or type(error).__name__
      raise ConfigError(
        f"{self._where} cannot be used on this conversation ({told.rstrip('.')[:200]}); mend the "
        "chat template, or give the prompt as plain text."
      ) from error
    require(text != "", f"{self._where} makes no text of this conversation; mend the template.")
    return text


def read_template(config: Mapping[str, Any], directory: Path) -> ChatTemplate | None:
  """The template of a tokenizer's files; None if there is none. The file of its own counts first.

  ConfigError if it is neither a text nor a list with one named default.
  """
  path, value = directory / FILE, config.get("chat_template")
  where = f"{directory}: chat_template in tokenizer_config.json"
  if path.is_file():
    where = str(path)
    try:
      value = path.read_text(encoding="utf-8")
    except ValueError as error:
      raise ConfigError(f"{path} is not text in UTF-8; replace it.") from error
  elif isinstance(value, list):
    named = {v.get("name"): v.get("template") for v in value if isinstance(v, dict)}
    value = named.get("default", next(iter(named.values())) if len(named) == 1 else None)
    require(isinstance(value, str), f"{where} is a list without a template named default; add one.")
  if value is None:
    return None
  require(isinstance(value, str), f"{where} is neither a text nor a list of named ones; mend it.")
  special = {name: token_text(config.get(name)) for name in _SPECIAL}
  return ChatTemplate(value, {n: s for n, s in special.items() if s is not None}, where)


def token_text(value: Any) -> str | None:
  """The spelling of a token that tokenizer_config.json names, as text or as an object."""
  if isinstance(value, dict):
    value = value.get("content")
  return value if isinstance(value, str) else None
