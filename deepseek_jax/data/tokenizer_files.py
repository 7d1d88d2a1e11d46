"""Tokenizer files as Hugging Face keeps them, written without the library that reads them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.data.special_tokens import CONTROL, EOS, PAD, TAGS

KIND_FIELD = "deepseek_jax_kind"  # in tokenizer_config.json: word | byte


def added_tokens(vocab: Mapping[str, int]) -> list[dict[str, Any]]:
  """The tokens matched in a text before anything else: control tokens and tags."""
  return [
    {
      "id": vocab[token],
      "content": token,
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      "normalized": False,
      "special": token in CONTROL,
    }
    for token in (*CONTROL, *TAGS)
  ]


def tokenizer_json(
  vocab: Mapping[str, int],
  model: Mapping[str, Any],
  pre_tokenizer: Mapping[str, Any],
  decoder: Mapping[str, Any] | None,
) -> dict[str, Any]:
  """The content of tokenizer.json."""
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": added_tokens(vocab),
    "normalizer": None,
    "pre_tokenizer": dict(pre_tokenizer),
    "post_processor": None,
    "decoder": None if decoder is None else dict(decoder),
    "model": dict(model),
  }


def write_tokenizer(
  directory: str | os.PathLike[str], kind: str, content: Mapping[str, Any]
) -> None:
  """Writes both files beside their places and renames them."""
  folder = Path(directory)
  folder.mkdir(parents=True, exist_ok=True)
  config = {
    KIND_FIELD: kind,
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": EOS,
    "pad_token": PAD,
    "add_bos_token": False,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
  }
  for name, value in (("tokenizer.json", content), ("tokenizer_config.json", config)):
    write_json(folder / name, value)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
  """Writes a JSON object beside its place and renames it."""
  beside = path.with_name(f".{path.name}.tmp")
  beside.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
  os.replace(beside, path)


def read_json(path: Path) -> dict:
  """A JSON object from a file, empty if there is no such file; ConfigError if it is damaged."""
  if not path.is_file():
    return {}
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ConfigError(f"{path} is not valid JSON ({error}).") from error
  if not isinstance(value, dict):
    raise ConfigError(f"{path} is not a JSON object.")
  return value
