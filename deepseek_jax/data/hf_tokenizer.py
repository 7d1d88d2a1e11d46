"""Hugging Face's tokenizer.json files; an extra: pip install 'deepseek-jax[hf]'."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.data import chat_template
from deepseek_jax.data.special_tokens import TAGS
from deepseek_jax.data.tokenizer_files import read_json

_CONFIG = "tokenizer_config.json"
_FILES = ("tokenizer.json", _CONFIG, "special_tokens_map.json", chat_template.FILE)


class HFTokenizer:
  """See `tokenizer.Tokenizer`: a `tokenizers.Tokenizer` with what the files beside it add.

  `template` is the chat template, None if there is none. `stop_ids` are the tokens that end an
  answer: eos, and those that generation_config.json has beside it. `markers` are the spellings
  of the tokens that structure a text: special ones, and others such as `<｜User｜>`.
  """

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
    self.bos_id: int | None = self._named(config, "bos_token") if self._adds_bos(config) else None
    more = read_json(directory / "generation_config.json").get("eos_token_id")
    more = [i for i in (more if isinstance(more, list) else [more]) if isinstance(i, int)]
    self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([eos, *more]))
    self.template = chat_template.read_template(config, directory)
    added = tokenizer.get_added_tokens_decoder()
    self.markers: tuple[str, ...] = tuple(t.content for t in added.values() if _is_marker(t))
    # Whatever a file flags, a thought's tags are part of what a model says.
    self._silent = {i for i, t in added.items() if t.special and t.content not in TAGS}

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
    return cls(tokenizer, read_json(folder / _CONFIG), folder)

  def _adds_bos(self, config: dict[str, Any]) -> bool:
    """Whether documents begin with bos: as the configuration says, else as tokenizer.json does."""
    if config.get("add_bos_token") is None:
      bos = self._named(config, "bos_token")
      return bos is not None and self._tokenizer.encode("").ids[:1] == [bos]
    return bool(config["add_bos_token"])

  def _named(self, config: dict[str, Any], field: str) -> int | None:
    """The id of a token that the configuration names, as text or as an object with `content`."""
    spelling = chat_template.token_text(config.get(field))
    return None if spelling is None else self.id_of(spelling)

  def encode(self, text: str) -> list[int]:
    """Tokens of the text; nothing is added."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def decode(self, ids: Sequence[int]) -> str:
    """The text, without the tokens that the file flags as special, but with a thought's tags."""
    kept = [i for i in map(int, ids) if i not in self._silent]
    return self._tokenizer.decode(kept, skip_special_tokens=False)

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


def _is_marker(token: Any) -> bool:
  """Whether an added token is more than a frequent run of characters, such as of blanks."""
  text = token.content
  return len(text) > 1 and (token.special or text.startswith("<") or "｜" in text)
