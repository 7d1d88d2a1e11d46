"""What callers of the Python API hand in: numbers, texts and tokens that are what they should be.

NumPy's and JAX's numbers are welcome. What would be cut to a whole number, or means nothing, is
refused by its name.
"""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from deepseek_jax.config import ConfigError, require


def whole(name: str, value: Any) -> int:
  """The whole number; ConfigError for anything else, 1.0 and True among it."""
  try:
    if not isinstance(value, bool):
      return operator.index(value)
  except TypeError:
    pass
  raise ConfigError(f"{name} is {value!r:.100}; give a whole number.")


def number(name: str, value: Any) -> float:
  """The number as a float; ConfigError for anything else, text and True among it."""
  try:
    if np.ndim(value) == 0 and not isinstance(value, (str, bytes, bool, np.bool_)):
      return float(value)
  except (TypeError, ValueError, OverflowError):
    pass
  raise ConfigError(f"{name} is {value!r:.100}; give a number.")


def items(values: Any) -> list[Any] | None:
  """The items of a list or of what is like one; None for a text, a mapping, a single value."""
  single = isinstance(values, (str, bytes, Mapping)) or getattr(values, "ndim", 1) == 0
  return list(values) if isinstance(values, Iterable) and not single else None


def texts_or_tokens(prompts: Any) -> list[str] | list[list[int]]:
  """Prompts that are all texts, or all lists of token ids; ConfigError for any others."""
  given = items(prompts)
  if given is None:
    raise ConfigError(
      f"prompts are {prompts!r:.100}; give a text, a list of texts or a list of lists of token ids."
    )
  kinds = {isinstance(prompt, str) for prompt in given}
  require(len(kinds) < 2, "some prompts are texts and some are not; give them in two calls.")
  return given if True in kinds else [_tokens(i, prompt) for i, prompt in enumerate(given)]


def _tokens(place: int, prompt: Any) -> list[int]:
  """The token ids of the prompt at a place."""
  tokens = items(prompt)
  if tokens is None:
    raise ConfigError(
      f"prompt {place} is {prompt!r:.100}; give a text or a list of token ids for each prompt."
    )
  return [whole(f"a token of prompt {place}", token) for token in tokens]
