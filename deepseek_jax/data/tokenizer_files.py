"""Tokenizer files as Hugging Face keeps them, written without the library that reads them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.data.special_tokens import CONTROL, EOS, PAD, TAGS

KIND_FIELD = "deepseek_jax_kind"  # in tokenizer_config.json: word | byte
_OLDER = ("tokenizer.model", "vocab.json", "spiece.model", "tekken.json", "vocab.txt")
_POINTER = b"version https://git-lfs.github.com/"


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


def older_form(folder: Path) -> str:
  """What to do with a tokenizer that lies in a directory in another form; empty if none does."""
  found = next((name for name in _OLDER if (folder / name).is_file()), None)
  if found is None or (folder / "tokenizer.json").is_file():
    return ""
  return (
    f"{folder / found} is a tokenizer in an older form, which is not read; transformers' "
    f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r}) writes the "
    "tokenizer.json that is."
  )


def refuse_pointer(path: Path) -> None:
  """ConfigError if git left a note at `path` in place of the file."""
  try:
    with path.open("rb") as file:
      start = file.read(len(_POINTER))
  except OSError:
    return  # which whoever reads the file tells
  if start == _POINTER:
    raise ConfigError(
      f"{path} is a git-lfs pointer, not the file itself; run git lfs pull in {path.parent}."
    )


def read_json(path: Path) -> dict:
  """A JSON object from a file, empty if there is no such file; ConfigError if it is damaged."""
  if not path.is_file():
    return {}
  refuse_pointer(path)
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ConfigError(f"{path} is not valid JSON ({error}).") from error
  if not isinstance(value, dict):
    raise ConfigError(f"{path} is not a JSON object.")
  return value
