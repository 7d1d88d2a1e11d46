"""Checked reading of the fields of a checkpoint's config.json."""

from collections.abc import Mapping
from typing import Any

from deepseek_jax.config import require

_TOO_LARGE = {int: 2.0**31, float: 1e18}  # for any count or width; for any factor or base


class Fields:
  """Checked reading of a config.json's fields."""

  def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any]):
    self.values, self.defaults = values, defaults

  def get(self, name: str, kind: type, default: Any = None) -> Any:
    """The field, its default when missing; null only where the default allows it."""
    value = self.values.get(name, self.defaults.get(name, default))
    if value is None:
      value = default
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole or isinstance(value, float):
      limit = _TOO_LARGE.get(kind, _TOO_LARGE[int])
      require(abs(value) < limit, f"config.json has {name} = {str(value)[:40]}; too large.")
    if kind is float and whole:
      value = float(value)
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    shown = repr(value)[:80]
    require(right, f"config.json has {name} = {shown}; it must be of type {kind.__name__}.")
    return value

  def positive(self, name: str, kind: type, default: Any = None) -> Any:
    """`get` of a number above zero."""
    value = self.get(name, kind, default)
    require(value > 0, f"config.json has {name} = {value}; it must be positive.")
    return value
