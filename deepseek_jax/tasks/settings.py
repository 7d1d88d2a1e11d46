"""A task's own settings in its name: `chain_sum(min_terms=2, max_terms=3)`."""

import ast
from typing import Any

from deepseek_jax.config import ConfigError, require


def split_settings(spec: str) -> tuple[str, dict[str, Any]]:
  """The name in front of the brackets, and the values within: numbers, text, lists, booleans.

  ConfigError where brackets hold anything but NAME=VALUE.
  """
  name, opened, inside = spec.partition("(")
  if not opened:
    return spec, {}
  wrong = ConfigError(
    f"task {spec!r}: settings are NAME=VALUE, with commas between and in brackets, as in "
    f"{name.strip() or 'chain_sum'}(min_terms=2, max_terms=3)."
  )
  try:
    call = ast.parse(f"settings({inside}", mode="eval").body
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    raise wrong from error
  plain = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
  if not plain or not isinstance(call, ast.Call):
    raise wrong
  settings = {}
  for keyword in call.keywords:
    if keyword.arg is None:
      raise wrong
    try:
      settings[keyword.arg] = ast.literal_eval(keyword.value)
    except ValueError as error:
      raise wrong from error
  return name.strip(), settings


def make(spec: str, kind: Any, settings: dict[str, Any]) -> Any:
  """A task of a kind with these settings; ConfigError where it refuses them."""
  given = {n: tuple(v) if isinstance(v, list) else v for n, v in settings.items()}
  try:
    return kind(**given)
  except ConfigError:
    raise
  except (TypeError, ValueError) as error:
    raise ConfigError(f"task {spec!r}: {error}.") from error


def check_range(task: str, **bounds: int) -> None:
  """ConfigError unless two settings, the lower and the upper bound, are whole numbers from 1 up."""
  low, high = bounds.values()
  told = ", ".join(f"{name}={value!r}" for name, value in bounds.items())
  whole = type(low) is int and type(high) is int
  require(
    whole and 1 <= low <= high,
    f"task {task} has {told}; give whole numbers from 1 up, the first not above the second.",
  )
