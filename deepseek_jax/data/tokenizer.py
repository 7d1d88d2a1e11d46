"""What a tokenizer is, and loading one by name or from a directory."""

import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from deepseek_jax.config import ConfigError
from deepseek_jax.data.byte_tokenizer import ByteTokenizer
from deepseek_jax.data.hf_tokenizer import HFTokenizer
from deepseek_jax.data.tokenizer_files import KIND_FIELD, older_form, read_json
from deepseek_jax.data.word_tokenizer import WordTokenizer
from deepseek_jax.paths import local_path


@runtime_checkable
class Tokenizer(Protocol):
  """Text to token numbers and back."""

  @property
  def vocab_size(self) -> int:
    """Number of ids; a model's vocabulary may be padded beyond it."""
    ...

  @property
  def pad_id(self) -> int:
    """Fills rows; its segment is 0, so nothing learns or reads it."""
    ...

  @property
  def eos_id(self) -> int:
    """Ends every document and every answer."""
    ...

  @property
  def bos_id(self) -> int | None:
    """Begins every document, or None where documents begin bare."""
    ...

  def encode(self, text: str) -> list[int]:
    """Tokens of a text; nothing is put before or after them. Spelled-out control tokens count."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """The text of tokens, without the control tokens (padding, begin and end, hole markers)."""
    ...

  def id_of(self, token: str) -> int | None:
    """The id of one token by its spelling, e.g. `<think>`; None if there is none."""
    ...

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes tokenizer.json and tokenizer_config.json, as Hugging Face reads them."""
    ...


def same_tokens(a: Tokenizer, b: Tokenizer) -> bool:
  """Whether two tokenizers give every text the same ids."""
  if isinstance(a, HFTokenizer) and isinstance(b, HFTokenizer):
    return a.rules == b.rules
  if isinstance(a, WordTokenizer) and isinstance(b, WordTokenizer):
    return a.words == b.words
  return isinstance(a, ByteTokenizer) and isinstance(b, ByteTokenizer)


def load_tokenizer(name: str | os.PathLike[str]) -> Tokenizer:
  """The tokenizer called `word` or `byte`, or the one saved in a directory.

  A directory is one written by `save` or a Hugging Face one holding tokenizer.json; the latter
  needs the `hf` extra.

  Raises:
    ConfigError: neither a known name nor such a directory.
  """
  if name == "word":
    return WordTokenizer()
  if name == "byte":
    return ByteTokenizer()
  directory = local_path(name)
  if not (directory / "tokenizer.json").is_file():
    raise ConfigError(
      older_form(directory)
      or f"tokenizer {str(name)!r} is neither word nor byte nor a directory with a tokenizer.json."
    )
  kind = read_json(directory / "tokenizer_config.json").get(KIND_FIELD)
  if kind == "word":
    return WordTokenizer.load(directory)
  if kind == "byte":
    return ByteTokenizer()
  return HFTokenizer.load(directory)
