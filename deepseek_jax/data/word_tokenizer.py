"""One token per word: every integer -199 to 199, and the mini tasks' words in two languages.

With digits or characters as tokens a mini model did not learn to copy within its budget; a whole
signed integer per token makes copying and adding single steps. Text is split at white space and
joined by single spaces.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from deepseek_jax.config import ConfigError
from deepseek_jax.data.special_tokens import CONTROL, EOS, PAD, TAGS
from deepseek_jax.data.tokenizer_files import read_json, tokenizer_json, write_tokenizer
from deepseek_jax.tasks.languages import WORDS

LARGEST = 199


def mini_words() -> tuple[str, ...]:
  """All tokens of the mini tasks in the order of their ids."""
  integers = map(str, range(-LARGEST, LARGEST + 1))
  words = (word for language in WORDS.values() for word in language.values())
  return (*CONTROL, *TAGS, "?", *words, *integers)


class WordTokenizer:
  """See `tokenizer.Tokenizer`. Unknown words are an error, never a token."""

  def __init__(self, words: Sequence[str] | None = None):
    """`words` are the tokens in the order of their ids; by default those of the mini tasks."""
    self.words = tuple(words or mini_words())
    self._ids = {token: i for i, token in enumerate(self.words)}
    self.vocab_size = len(self.words)
    self.pad_id = self._ids[PAD]
    self.eos_id = self._ids[EOS]
    self.bos_id: int | None = None
    self._control = frozenset(self._ids[token] for token in CONTROL)

  def encode(self, text: str) -> list[int]:
    """Tokens of the text's words; ConfigError names a word that has none."""
    ids = self._ids
    try:
      return [ids[token] for token in text.split()]
    except KeyError as error:
      raise ConfigError(
        f"the word tokenizer does not know {error.args[0]!r}; it reads the mini tasks only, "
        "use tokenizer byte for other text."
      ) from None

  def decode(self, ids: Sequence[int]) -> str:
    """The words joined by spaces, without control tokens; ids beyond the vocabulary are `�`."""
    return " ".join(
      self.words[i] if 0 <= i < self.vocab_size else "�"
      for i in map(int, ids)
      if i not in self._control
    )

  def id_of(self, token: str) -> int | None:
    """The id of a token, or None."""
    return self._ids.get(token)

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes Hugging Face's files: a WordLevel model split at white space.

    There unknown words become padding, since the format knows no refusal.
    """
    content = tokenizer_json(
      self._ids,
      {"type": "WordLevel", "vocab": self._ids, "unk_token": PAD},
      {"type": "WhitespaceSplit"},
      None,
    )
    write_tokenizer(directory, "word", content)

  @classmethod
  def load(cls, directory: str | os.PathLike[str]) -> "WordTokenizer":
    """Reads what `save` wrote."""
    path = Path(directory) / "tokenizer.json"
    try:
      vocab = read_json(path)["model"]["vocab"]
      words = sorted(vocab, key=vocab.__getitem__)
      if [vocab[token] for token in words] != list(range(len(words))):
        raise KeyError("ids have gaps")
      return cls(words)
    except (KeyError, TypeError, AttributeError) as error:
      raise ConfigError(f"{path} holds no word tokenizer ({error}).") from error
