"""Checked reading of the fields of a checkpoint's config.json."""

from collections.abc import Mapping
from typing import Any

from deepseek_jax.config import require


class Fields:
  """Checked reading of a config.json's fields."""

  def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]):
    self.values, self.defaults = values, defaults

  def get(self, name: str, kind: type, default: Any = None) -> Any:
    """The field, its default when missing; null only where the default allows it."""
    value = self.values.get(name, self.defaults.get(name, default))
    if value is None:
      value = default
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
      value = float(value)
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    require(right, f"config.json has {name} = {value!r}; it must be of type {kind.__name__}.")
    return value
