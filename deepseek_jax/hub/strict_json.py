"""JSON objects from files that nobody vouches for."""

import json
import pathlib
from typing import Any

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.tokenizer_files import refuse_pointer


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """The object in a JSON file; ConfigError if it is missing, damaged or ambiguous."""
  refuse_pointer(path)
  try:
    return parse_object(path.read_bytes(), str(path))
  except FileNotFoundError as error:
    raise ConfigError(f"{path} does not exist; give a Hugging Face directory.") from error
  except OSError as error:
    raise ConfigError(f"{path} cannot be read ({error.strerror}).") from error


def parse_object(text: bytes, where: str) -> dict[str, Any]:
  """The object that `text` spells; a field given twice or a number that is none is refused."""
  try:
    value = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
  except (ValueError, RecursionError) as error:
    raise ConfigError(f"{where} is not readable JSON ({error}); fetch it again.") from error
  require(isinstance(value, dict), f"{where} must hold a JSON object of fields.")
  return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object, unless it has a field twice, of which readers choose different ones."""
  fields = dict(pairs)
  if len(fields) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f"{twice!r} is given twice")
  return fields


def _no_number(text: str) -> None:
  raise ValueError(f"{text} is no number of JSON")
