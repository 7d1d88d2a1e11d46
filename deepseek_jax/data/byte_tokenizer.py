"""One token per UTF-8 byte, besides the control tokens and tags: reads any text."""

import os
import re
from collections.abc import Sequence
from typing import Any

from deepseek_jax.data.special_tokens import CONTROL, EOS, PAD, TAGS
from deepseek_jax.data.tokenizer_files import tokenizer_json, write_tokenizer

_NAMED = (*CONTROL, *TAGS)
_FIRST_BYTE = len(_NAMED)


class ByteTokenizer:
  """See `tokenizer.Tokenizer`. Ids: control tokens, tags, then byte value + 9."""

  def __init__(self) -> None:
    self._ids = {token: i for i, token in enumerate(_NAMED)}
    self._split = re.compile("(" + "|".join(map(re.escape, _NAMED)) + ")")
    self.vocab_size = _FIRST_BYTE + 256
    self.pad_id = self._ids[PAD]
    self.eos_id = self._ids[EOS]
    self.bos_id: int | None = None

  def encode(self, text: str) -> list[int]:
    """Bytes of the text; spelled-out control tokens and tags become one token each.

    Lone surrogates, which UTF-8 cannot hold, become `?`.
    """
    out: list[int] = []
    for i, part in enumerate(self._split.split(text)):
      if i % 2:
        out.append(self._ids[part])
      else:
        out.extend(b + _FIRST_BYTE for b in part.encode("utf-8", errors="replace"))
    return out

  def decode(self, ids: Sequence[int]) -> str:
    """The text without control tokens; broken UTF-8 and unknown ids are `�`."""
    out = bytearray()
    for i in map(int, ids):
      if _FIRST_BYTE <= i < self.vocab_size:
        out.append(i - _FIRST_BYTE)
      elif len(CONTROL) <= i < _FIRST_BYTE:
        out += _NAMED[i].encode()
      elif not 0 <= i < len(CONTROL):
        out += "�".encode()
    return out.decode("utf-8", errors="replace")

  def id_of(self, token: str) -> int | None:
    """The id of a control token, a tag or a single-byte character, or None."""
    if token in self._ids:
      return self._ids[token]
    raw = token.encode("utf-8", errors="replace")
    return raw[0] + _FIRST_BYTE if len(raw) == 1 else None

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes Hugging Face's files: byte-level BPE without merges."""
    vocab = dict(self._ids)
    for byte, symbol in enumerate(_byte_symbols()):
      vocab[symbol] = byte + _FIRST_BYTE
    byte_level = {
      "type": "ByteLevel",
      "add_prefix_space": False,
      "trim_offsets": True,
      "use_regex": False,
    }
    model: dict[str, Any] = {
      "type": "BPE",
      "dropout": None,
      "unk_token": None,
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      "fuse_unk": False,
      "byte_fallback": False,
      "ignore_merges": False,
      "vocab": vocab,
      "merges": [],
    }
    write_tokenizer(directory, "byte", tokenizer_json(vocab, model, byte_level, byte_level))


def _byte_symbols() -> list[str]:
  """GPT-2's printable character for each byte, by which byte-level BPE spells its vocabulary."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  symbols = [chr(b) if b in printable else "" for b in range(256)]
  spare = iter(range(256, 512))
  return [symbol or chr(next(spare)) for symbol in symbols]
