"""Hugging Face's tokenizer.json files; an extra: pip install 'deepseek-jax[hf]'."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.data.tokenizer_files import read_json

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class HFTokenizer:
  """See `tokenizer.Tokenizer`: a `tokenizers.Tokenizer` with what tokenizer_config.json adds."""

  def __init__(self, tokenizer: Any, config: dict[str, Any], directory: Path):
    self._tokenizer = tokenizer
    self._directory = directory
    # The highest id counts, not the number of tokens: published vocabularies have gaps.
    self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    eos = self._named(config, "eos_token")
    if eos is None:
      raise ConfigError(f"{directory} names no eos_token in tokenizer_config.json.")
    self.eos_id: int = eos
    pad = self._named(config, "pad_token")
    self.pad_id: int = eos if pad is None else pad
    adds_bos = config.get("add_bos_token", False)
    self.bos_id: int | None = self._named(config, "bos_token") if adds_bos else None

  @classmethod
  def load(cls, directory: str | os.PathLike[str]) -> "HFTokenizer":
    """Reads tokenizer.json and, if there, tokenizer_config.json."""
    try:
      import tokenizers
    except ImportError as error:
      raise ConfigError(
        f"{directory} holds a Hugging Face tokenizer; pip install 'deepseek-jax[hf]' to read it."
      ) from error
    folder = Path(directory)
    try:
      tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
      raise ConfigError(f"{folder / 'tokenizer.json'} cannot be read ({error}).") from error
    return cls(tokenizer, read_json(folder / "tokenizer_config.json"), folder)

  def _named(self, config: dict[str, Any], field: str) -> int | None:
    """The id of a token that the configuration names, as text or as an object with `content`."""
    value = config.get(field)
    if isinstance(value, dict):
      value = value.get("content")
    return None if value is None else self.id_of(value)

  def encode(self, text: str) -> list[int]:
    """Tokens of the text; nothing is added."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """The text, without the tokens that the file flags as special."""
    return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

  def id_of(self, token: str) -> int | None:
    """The id of a token, or None."""
    return self._tokenizer.token_to_id(token)

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Copies the files it was loaded from."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
      source = self._directory / name
      if source.is_file() and source.resolve() != (folder / name).resolve():
        beside = folder / f".{name}.tmp"
        shutil.copyfile(source, beside)
        os.replace(beside, folder / name)
