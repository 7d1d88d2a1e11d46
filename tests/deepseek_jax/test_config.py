"""Configurations go to dictionaries and back, and bad ones name the field."""

import dataclasses
import json
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from deepseek_jax.config import (
  ComputeConfig,
  ConfigError,
  GQAConfig,
  MLAConfig,
  ModelConfig,
  MoEConfig,
  RopeConfig,
  from_dict,
  to_dict,
)
from deepseek_jax.presets import PRESETS, preset
from deepseek_jax.sharding import MeshConfig

MINI = to_dict(preset("v3_mini"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
  text = json.dumps(to_dict(preset(name)))
  assert from_dict(ModelConfig, json.loads(text)) == preset(name)


@pytest.mark.parametrize("name", ["v3_671b", "smollm2_135m"])
def test_presets_survive_a_config_dict(name):
  assert from_dict(ModelConfig, ConfigDict(to_dict(preset(name)))) == preset(name)


@given(
  st.builds(
    ComputeConfig,
    dtype=st.sampled_from(["float32", "bfloat16"]),
    remat=st.sampled_from(["none", "full", "dots"]),
    attention_block=st.integers(1, 4096),
  )
  | st.builds(RopeConfig, theta=st.floats(1, 1e7), factor=st.floats(1, 64))
  | st.builds(MeshConfig, *(4 * [st.integers(1, 64)]))
)
def test_any_config_survives_json(config):
  assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


def test_an_unknown_preset_names_those_there_are():
  with pytest.raises(ConfigError, match="'v4' is unknown; the presets are v3_671b, "):
    preset("v4")


def changed(path: str, value) -> dict:
  """MINI as a dictionary, with the field at the dotted `path` set."""
  values = json.loads(json.dumps(MINI))
  *parents, last = path.split(".")
  target = values
  for name in parents:
    target = target[name]
  target[last] = value
  return values


@pytest.mark.parametrize(
  ("path", "value", "complaint"),
  [
    # unknown fields
    ("depth", 3, "config has no field 'depth'; its fields are vocab, "),
    ("moe.expert", 3, "config.moe has no field 'expert'; its fields are experts, "),
    ("attention.latent", 3, "config.attention must have the fields of MLAConfig or GQAConfig"),
    # wrong types
    ("vocab", "512", "config.vocab is '512'; it must be of type int."),
    ("vocab", 512.0, "config.vocab is 512.0; it must be of type int."),
    ("layers", True, "config.layers is True; it must be of type int."),
    ("norm_eps", "small", "config.norm_eps is 'small'; it must be of type float."),
    ("norm_eps", True, "config.norm_eps is True; it must be of type float."),
    ("tied", 1, "config.tied is 1; it must be of type bool."),
    ("moe", 8, "config.moe is 8; it must be a mapping of fields."),
    ("moe.top_k", None, "config.moe.top_k is None; it must be of type int."),
    ("rope", None, "config.rope is None; it must be a mapping of fields."),
    ("attention.q_latent", "x", "config.attention.q_latent is 'x'; it must be of type int."),
    ("init_std", [1], "config.init_std is [1]; it must be of type float."),
    # impossible shapes
    ("vocab", 0, "model.vocab is 0"),
    ("layers", -1, "model.layers is -1"),
    ("mtp_depth", -1, "model.mtp_depth is -1"),
    ("dense_ff", 0, "model.dense_ff is 0"),
    ("attention.rope_dim", 7, "mla.rope_dim is 7; it must be even."),
    ("attention.q_latent", 0, "mla.q_latent is 0"),
    ("attention.kv_latent", 0, "mla.kv_latent is 0"),
    ("moe.top_k", 9, "moe.top_k is 9; it must be between 1 and moe.experts, 8."),
    ("moe.top_k", 0, "moe.top_k is 0"),
    ("moe.top_k", 5, "moe.top_k is 5, but 2 groups hold only 4 experts."),
    ("moe.groups", 3, "moe.groups is 3; it must divide moe.experts, 8."),
    ("moe.groups", 8, "moe.group_score top2 needs groups of at least two experts."),
    ("moe.top_groups", 5, "moe.top_groups is 5; it must be between 1 and moe.groups, 4."),
    ("moe.dense_layers", 4, "moe.dense_layers is 4; it must not exceed model.layers, 3."),
    ("moe.shared", -1, "moe.shared is -1"),
    ("moe.scoring", "tanh", "moe.scoring is 'tanh'; use sigmoid or softmax."),
    ("moe.group_score", "sum", "moe.group_score is 'sum'; use top2 or max."),
    ("rope.scaling", "ntk", "rope.scaling is 'ntk'; use none, linear, yarn or llama3."),
    ("rope.factor", 0.5, "rope.factor is 0.5"),
    ("rope.theta", 0, "rope.theta is 0"),
    ("rope.theta", math.nan, "rope.theta is nan"),
    ("rope.theta", math.inf, "rope.theta is inf"),
    ("rope.factor", math.inf, "rope.factor is inf"),
  ],
)
def test_a_bad_field_is_named(path, value, complaint):
  with pytest.raises(ConfigError, match="^" + re.escape(complaint)):
    from_dict(ModelConfig, changed(path, value))


def test_a_missing_field_is_named():
  values = {k: v for k, v in MINI.items() if k != "heads"}
  with pytest.raises(ConfigError, match=r"^config\.heads is missing\.$"):
    from_dict(ModelConfig, values)


def test_kv_heads_divide_heads():
  values = changed("attention", {"kv_heads": 2, "head_dim": 8})
  with pytest.raises(ConfigError, match=r"^gqa\.kv_heads is 2; it must divide model\.heads, 3\."):
    from_dict(ModelConfig, values)


def test_unions_choose_by_the_fields_given():
  attention = from_dict(ModelConfig, changed("attention", {"kv_heads": 3, "head_dim": 8})).attention
  assert attention == GQAConfig(kv_heads=3, head_dim=8)
  assert isinstance(from_dict(ModelConfig, MINI).attention, MLAConfig)
  assert from_dict(ModelConfig, changed("moe", None)).moe is None


def test_a_whole_number_will_do_for_a_float_and_becomes_one():
  eps = from_dict(ModelConfig, changed("norm_eps", 1)).norm_eps
  assert eps == 1.0
  assert isinstance(eps, float)


@given(
  experts=st.integers(-1, 16),
  top_k=st.integers(-1, 17),
  groups=st.integers(0, 9),
  top_groups=st.integers(0, 9),
)
def test_experts_are_accepted_exactly_where_a_token_can_reach_them(
  experts, top_k, groups, top_groups
):
  possible = (
    experts > 0
    and groups > 0
    and experts % groups == 0
    and 0 < top_groups <= groups
    and 0 < top_k <= experts * top_groups // groups
    and (groups == 1 or experts // groups >= 2)  # a group's score is the sum of its best two
  )
  try:
    config = MoEConfig(experts, top_k, 4, groups=groups, top_groups=top_groups)
  except ConfigError as error:
    assert not possible
    assert str(error).startswith("moe.")
    assert str(error).endswith(".")
  else:
    assert possible
    assert dataclasses.asdict(config)["top_k"] == top_k


# Any nesting of plain data: what JSON or a command line may hold.
PLAIN = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
  lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
  max_leaves=4,
)


@example("attention", {})
@example("attention", {"\n": None})
@given(st.sampled_from(sorted(MINI)), PLAIN)
def test_any_value_is_taken_or_refused_in_one_sentence(field, value):
  try:
    built = from_dict(ModelConfig, {**MINI, field: value})
  except ConfigError as error:
    assert field in str(error)
    assert "\n" not in str(error)
  else:
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(built)))) == built
