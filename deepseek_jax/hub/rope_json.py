"""The rotary embedding's fields of a config.json, to and from RopeConfig."""

import math
from collections.abc import Mapping
from typing import Any

from deepseek_jax.config import RopeConfig, require
from deepseek_jax.hub.fields import Fields
from deepseek_jax.ops.rope import yarn_mscale

# What `rope_scaling` may say of each type, and of all.
_FIELDS: dict[str, tuple[str, ...]] = {
  "default": (),
  "linear": ("factor",),
  "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
  "yarn": (
    *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate"),
    *("mscale", "mscale_all_dim", "attention_factor"),
  ),
}
_OF_ALL = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


def rope_from_json(fields: Fields, deepseek: bool) -> RopeConfig:
  """Rotary embedding, from `rope_parameters` or from the older `rope_scaling` and `rope_theta`."""
  values = fields.values
  given = _given(values)
  theta = Fields(given, {}).get("rope_theta", float, fields.get("rope_theta", float))
  require(theta >= 1, f"config.json has rope_theta = {theta}; it must be at least 1.")
  for holder in (values, given):
    part = holder.get("partial_rotary_factor")
    require(part in (None, 1, 1.0), f"config.json has partial_rotary_factor = {part}; only 1 is.")
  kind = _kind(given)
  if kind == "default":
    return RopeConfig(theta=theta)
  rope = Fields(given, {})
  if kind == "linear":
    return RopeConfig(theta=theta, scaling="linear", factor=rope.positive("factor", float))
  context = fields.get("max_position_embeddings", int)
  original = rope.positive("original_max_position_embeddings", int, context)
  if kind == "llama3":
    return RopeConfig(
      theta=theta,
      scaling="llama3",
      factor=rope.get("factor", float),
      original_context=original,
      low_freq_factor=rope.positive("low_freq_factor", float),
      high_freq_factor=rope.positive("high_freq_factor", float),
    )
  require(given.get("truncate", True), "config.json has YaRN's truncate = false; only true is.")
  factor = rope.positive("factor", float, context / original)
  mscale, all_dim = _mscales(rope, factor)
  require(
    deepseek or all_dim == 0.0,
    "config.json has YaRN's mscale_all_dim, which transformers ignores in this model type's "
    "softmax; remove it and give attention_factor.",
  )
  return RopeConfig(
    theta=theta,
    scaling="yarn",
    factor=factor,
    original_context=original,
    beta_fast=rope.positive("beta_fast", float, 32.0),
    beta_slow=rope.positive("beta_slow", float, 1.0),
    mscale=mscale,
    mscale_all_dim=all_dim,
  )


def left_out(values: Mapping[str, Any]) -> list[str]:
  """The fields beside these of the rope type, which are passed over, as transformers does."""
  given = _given(values)
  known = (*_OF_ALL, *_FIELDS[_kind(given)])
  return [name for name, value in given.items() if name not in known and value is not None]


def _given(values: Mapping[str, Any]) -> Mapping[str, Any]:
  """What the file says of scaling; nothing if it says nothing."""
  given = values.get("rope_scaling") or values.get("rope_parameters") or {}
  require(isinstance(given, Mapping), f"config.json has rope_scaling = {given!r}; not an object.")
  return given


def _kind(given: Mapping[str, Any]) -> str:
  """The rope type, `default` where nothing is scaled."""
  kind = given.get("rope_type", given.get("type"))
  if kind is None and "rope_type" not in given:
    # transformers would not scale, which is hardly what a file with a factor means.
    scaled = [name for names in _FIELDS.values() for name in names if given.get(name) is not None]
    require(
      not scaled,
      f"config.json has rope_scaling with {', '.join(scaled[:1])} but without a rope_type; add "
      "linear, llama3 or yarn, or remove it.",
    )
    return "default"
  require(
    isinstance(kind, str) and kind in _FIELDS,
    f"config.json has rope type {kind!r}; supported are default, linear, yarn and llama3.",
  )
  return str(kind)


def _mscales(rope: Fields, factor: float) -> tuple[float, float]:
  """YaRN's two mscales such that cos and sin are scaled as transformers scales them.

  There the scale is `attention_factor`, or m(mscale) / m(mscale_all_dim) if both are given and not
  zero, or else m(1).
  """
  mscale = rope.get("mscale", float, 0.0)
  all_dim = rope.get("mscale_all_dim", float, 0.0)
  scale = rope.get("attention_factor", float, 0.0)
  ours = yarn_mscale(factor, mscale) / yarn_mscale(factor, all_dim)
  if not scale:
    scale = ours if mscale and all_dim else yarn_mscale(factor, 1.0)
  if math.isclose(scale, ours, rel_tol=1e-9):
    return mscale, all_dim
  plain = yarn_mscale(factor, 1.0)
  if not all_dim and math.isclose(scale, plain, rel_tol=1e-9):
    return 1.0, 0.0
  require(factor > 1, "config.json has YaRN's attention_factor but a factor of 1.")
  return (scale * yarn_mscale(factor, all_dim) - 1) / (0.1 * math.log(factor)), all_dim


def rope_to_json(rope: RopeConfig) -> dict[str, Any]:
  """`rope_theta` and `rope_scaling`, which every version of transformers reads."""
  if rope.scaling == "none":
    return {"rope_theta": rope.theta, "rope_scaling": None}
  if rope.scaling == "linear":
    linear = {"rope_type": "linear", "type": "linear", "factor": rope.factor}
    return {"rope_theta": rope.theta, "rope_scaling": linear}
  scaling: dict[str, Any] = {
    "rope_type": rope.scaling,
    "factor": rope.factor,
    "original_max_position_embeddings": rope.original_context,
  }
  if rope.scaling == "llama3":
    scaling["low_freq_factor"] = rope.low_freq_factor
    scaling["high_freq_factor"] = rope.high_freq_factor
  else:
    scaling |= {
      "type": "yarn",  # the name of rope_type in DeepSeek's own code
      "beta_fast": rope.beta_fast,
      "beta_slow": rope.beta_slow,
      "mscale": rope.mscale,
      "mscale_all_dim": rope.mscale_all_dim,
    }
    if not (rope.mscale and rope.mscale_all_dim):
      # transformers heeds the mscales only where both are given and not zero.
      scale = yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim)
      if scale != yarn_mscale(rope.factor, 1.0):
        scaling["attention_factor"] = scale
  return {"rope_theta": rope.theta, "rope_scaling": scaling}
