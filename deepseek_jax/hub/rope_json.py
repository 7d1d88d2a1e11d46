"""The rotary embedding's fields of a config.json, to and from RopeConfig."""

import math
from collections.abc import Mapping
from typing import Any

from deepseek_jax.config import RopeConfig, require
from deepseek_jax.hub.fields import Fields
from deepseek_jax.ops.rope import yarn_mscale


def rope_from_json(fields: Fields, deepseek: bool) -> RopeConfig:
  """Rotary embedding, from `rope_parameters` or from the older `rope_scaling` and `rope_theta`."""
  values = fields.values
  given = values.get("rope_scaling") or values.get("rope_parameters") or {}
  require(isinstance(given, Mapping), f"config.json has rope_scaling = {given!r}; not an object.")
  theta = Fields(given, {}).get("rope_theta", float, fields.get("rope_theta", float))
  for holder in (values, given):
    part = holder.get("partial_rotary_factor")
    require(part in (None, 1, 1.0), f"config.json has partial_rotary_factor = {part}; only 1 is.")
  kind = given.get("rope_type", given.get("type", "default"))
  if kind == "default":
    return RopeConfig(theta=theta)
  require(
    kind in ("linear", "yarn", "llama3"),
    f"config.json has rope type {kind!r}; supported are default, linear, yarn and llama3.",
  )
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
