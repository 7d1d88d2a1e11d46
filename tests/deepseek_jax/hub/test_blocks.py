"""Scales by block and by element: where they lie, and that they come back exactly."""

import dataclasses
import math
import re

import numpy as np
import pytest

from deepseek_jax.config import ConfigError, MLAConfig
from deepseek_jax.hub import names
from deepseek_jax.hub.blocks import leaf_scale_shapes, scale_parts, scale_shape, whole_scale
from deepseek_jax.hub.safetensors import abstract_weights
from deepseek_jax.ops.fp8 import E4M3, FP8Blocks, dequantize_matrix
from deepseek_jax.presets import preset

ODD = dataclasses.replace(
  preset("v3_mini"),
  d_model=200,
  layers=1,
  heads=3,
  dense_ff=136,
  attention=MLAConfig(kv_latent=128, nope_dim=80, rope_dim=48, v_dim=176, q_latent=72),
  moe=None,
)


def shapes_of(config):
  return {path: leaf.shape for path, leaf in names.flatten(abstract_weights(config)).items()}


def table(config):
  return {t.name: t for t in names.tensors(config) if t.blocks}


def test_the_released_files_have_these_scales():
  """Of V3's files: rows and columns of weight_scale_inv, and what our leaves hold of them."""
  config = preset("v3_671b")
  shapes, tensors = shapes_of(config), table(config)
  layer = "model.layers.3."

  def found(name):
    tensor = tensors[layer + name]
    return scale_shape(tensor, shapes), leaf_scale_shapes(tensor, shapes)

  kv_a, leaves = found("self_attn.kv_a_proj_with_mqa.weight")
  assert kv_a == (5, 56) and leaves == [(58, 56, 4), (58, 56, 1)]
  q_b, leaves = found("self_attn.q_b_proj.weight")  # heads of 192 rows: by element
  assert q_b == (192, 12) and leaves == [(58, 12, 128, 128), (58, 12, 128, 64)]
  kv_b, leaves = found("self_attn.kv_b_proj.weight")
  assert kv_b == (256, 4) and leaves == [(58, 4, 128, 1), (58, 4, 128, 1)]
  assert found("self_attn.o_proj.weight") == ((56, 128), [(58, 128, 1, 56)])
  assert found("mlp.experts.7.down_proj.weight") == ((56, 16), [(58, 256, 16, 56)])
  assert "model.layers.61.mlp.experts.0.up_proj.weight" in tensors
  whole = {t.name for t in names.tensors(config)} - set(tensors)
  kinds = {re.sub(r"^model\.layers\.\d+\.", "", name) for name in whole}
  assert kinds == {
    "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "input_layernorm.weight",
    "post_attention_layernorm.weight", "self_attn.q_a_layernorm.weight",
    "self_attn.kv_a_layernorm.weight", "mlp.gate.weight", "mlp.gate.e_score_correction_bias",
    "enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight",
    "shared_head.head.weight", "embed_tokens.weight",
  }  # fmt: skip


def test_only_deepseek_is_in_blocks():
  assert not table(preset("r1_distill_qwen_1_5b"))


@pytest.mark.parametrize("config", [ODD, dataclasses.replace(ODD, heads=8)])
def test_scales_come_back_and_every_leaf_stands_alone(config):
  rng = np.random.default_rng(0)
  shapes = shapes_of(config)
  for tensor in table(config).values():
    shape = tensor.shape(shapes)
    scale = rng.random(scale_shape(tensor, shapes), np.float32) + 0.5
    values = rng.integers(0, 0x7F, shape, np.uint8).view(E4M3)
    parts = scale_parts(tensor, scale, shapes)
    assert np.array_equal(whole_scale(tensor, parts, shapes), scale)
    leaves = leaf_scale_shapes(tensor, shapes)
    dequantised = []
    for piece, part, value, leaf in zip(
      tensor.pieces, parts, tensor.parts(values, shapes), leaves, strict=True
    ):
      assert part.shape == leaf[len(piece.index) :]
      dequantised.append(np.asarray(FP8Blocks(value, part).astype(np.float32)))
    expected = dequantize_matrix(values, scale)
    assert np.array_equal(tensor.whole(dequantised), expected), tensor.name
    assert math.prod(scale.shape) <= sum(part.size for part in parts)


def test_parts_that_disagree_about_a_block_are_refused():
  shapes = shapes_of(ODD)
  tensor = table(ODD)["model.layers.0.self_attn.q_b_proj.weight"]
  scale = np.ones(scale_shape(tensor, shapes), np.float32)
  parts = [part.copy() for part in scale_parts(tensor, scale, shapes)]
  parts[0][0, 1, 2] = 2.0
  with pytest.raises(ConfigError, match="q_b_proj"):
    whole_scale(tensor, parts, shapes)
