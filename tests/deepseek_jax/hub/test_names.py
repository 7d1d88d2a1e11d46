"""The tensor-name table covers every leaf exactly once, for every preset."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from deepseek_jax.hub import names
from deepseek_jax.hub.safetensors import abstract_weights
from deepseek_jax.presets import PRESETS, preset

ALL = [name for name in PRESETS if name != "r1_671b"]  # which is v3_671b


def shapes_of(config):
  return {path: leaf.shape for path, leaf in names.flatten(abstract_weights(config)).items()}


def owned(config):
  """The tensors that hold our leaves, without the further copies."""
  return [tensor for tensor in names.tensors(config) if not tensor.copy]


def count(tensors, shapes) -> int:
  return sum(math.prod(tensor.shape(shapes)) for tensor in tensors)


def covered(config) -> dict:
  """How often each part of each leaf stands in a tensor."""
  shapes, seen = shapes_of(config), {}
  for tensor in owned(config):
    for piece in tensor.pieces:
      assert len(piece.axes) == len(shapes[piece.path]) - len(piece.index), tensor
      seen.setdefault(piece.path, []).append(piece.index)
  return seen


@pytest.mark.parametrize("name", ALL)
def test_every_leaf_is_in_exactly_one_tensor(name):
  config = preset(name)
  shapes, seen = shapes_of(config), covered(config)
  unnamed = set(shapes) - set(seen)
  if config.moe is None or not config.moe.selection_bias:
    assert unnamed == {("router_bias_LE",)}  # which is empty, or zeros that V2 has no use for
  else:
    assert not unnamed
  for path, indices in seen.items():
    stacked = shapes[path][: len(indices[0])]
    assert sorted(indices) == list(itertools.product(*map(range, stacked))), path
  found = [tensor.name for tensor in names.tensors(config)]
  assert len(found) == len(set(found))


@pytest.mark.parametrize(
  ("name", "main", "mtp"),
  [
    ("v3_671b", 671_026_419_200, 11_610_068_224),
    ("v2_236b", 235_741_434_880, 0),
    ("v2_lite_16b", 15_706_484_224, 0),
    ("r1_distill_qwen_1_5b", 1_777_088_000, 0),
    ("r1_distill_llama_8b", 8_030_261_248, 0),
    ("smollm2_135m", 134_515_008, 0),
  ],
)
def test_published_parameter_counts(name, main, mtp):
  config = preset(name)
  shapes = shapes_of(config)
  prefixes = tuple(f"model.layers.{config.layers + k}." for k in range(config.mtp_depth))
  module = [t for t in owned(config) if prefixes and t.name.startswith(prefixes)]
  rest = [t for t in owned(config) if not (prefixes and t.name.startswith(prefixes))]
  assert count(rest, shapes) == main
  assert count(module, shapes) == mtp


def test_released_shapes():
  """Shapes of the published checkpoints, written down from their files."""
  shapes = shapes_of(preset("v3_671b"))
  found = {tensor.name: tensor.shape(shapes) for tensor in names.tensors(preset("v3_671b"))}
  layer = "model.layers.3."
  assert found["model.embed_tokens.weight"] == found["lm_head.weight"] == (129_280, 7168)
  assert found[layer + "self_attn.q_a_proj.weight"] == (1536, 7168)
  assert found[layer + "self_attn.q_b_proj.weight"] == (24_576, 1536)
  assert found[layer + "self_attn.kv_a_proj_with_mqa.weight"] == (576, 7168)
  assert found[layer + "self_attn.kv_b_proj.weight"] == (32_768, 512)
  assert found[layer + "self_attn.o_proj.weight"] == (7168, 16_384)
  assert found["model.layers.2.mlp.down_proj.weight"] == (7168, 18_432)
  assert found[layer + "mlp.gate.weight"] == (256, 7168)
  assert found[layer + "mlp.gate.e_score_correction_bias"] == (256,)
  assert found[layer + "mlp.experts.255.down_proj.weight"] == (7168, 2048)
  assert found["model.layers.61.eh_proj.weight"] == (7168, 14_336)
  assert found["model.layers.61.shared_head.head.weight"] == (129_280, 7168)
  lite = preset("v2_lite_16b")
  found = {t.name: t.shape(shapes_of(lite)) for t in names.tensors(lite)}
  assert found["model.layers.0.self_attn.q_proj.weight"] == (3072, 2048)
  assert "model.layers.1.mlp.gate.e_score_correction_bias" not in found


def numbered(config):
  """Leaves whose every element is a number of its own."""
  shapes, start = shapes_of(config), 0
  leaves = {}
  for path, shape in shapes.items():
    leaves[path] = np.arange(start, start + math.prod(shape)).reshape(shape)
    start += math.prod(shape)
  return leaves, start


def test_encoding_keeps_every_element_and_decoding_puts_it_back():
  config = dataclasses.replace(preset("v3_mini"), mtp_depth=2)
  leaves, total = numbered(config)
  tensors = owned(config)
  encoded = [tensor.encode(leaves) for tensor in tensors]
  assert np.array_equal(np.sort(np.concatenate([e.ravel() for e in encoded])), np.arange(total))
  back = {path: np.full_like(leaf, -1) for path, leaf in leaves.items()}
  for tensor, array in zip(tensors, encoded, strict=True):
    tensor.decode(array, back)
  for path, leaf in leaves.items():
    assert np.array_equal(back[path], leaf), path


def test_rows_of_the_fused_projections():
  """Per head, nope rows then rotary ones; key rows then value ones; the latent, then the rope."""
  config = preset("v3_mini")
  leaves, _ = numbered(config)
  tensors = {tensor.name: tensor for tensor in names.tensors(config)}
  stack = ("params", "moe", "attention")  # layer 1 is the first with experts
  fused = {
    name: tensors[f"model.layers.1.self_attn.{name}.weight"].encode(leaves)
    for name in ("q_b_proj", "kv_b_proj", "kv_a_proj_with_mqa", "o_proj")
  }
  K, R, U = 24, 8, 32
  for head in range(config.heads):
    q = fused["q_b_proj"][head * (K + R) : (head + 1) * (K + R)]
    assert np.array_equal(q[:K], leaves[*stack, "q_up_QHK"][0, :, head].T)
    assert np.array_equal(q[K:], leaves[*stack, "q_rope_QHR"][0, :, head].T)
    kv = fused["kv_b_proj"][head * (K + U) : (head + 1) * (K + U)]
    assert np.array_equal(kv[:K], leaves[*stack, "k_up_CHK"][0, :, head].T)
    assert np.array_equal(kv[K:], leaves[*stack, "v_up_CHU"][0, :, head].T)
    out = fused["o_proj"][:, head * U : (head + 1) * U]
    assert np.array_equal(out, leaves[*stack, "out_HUD"][0, head].T)
  assert np.array_equal(fused["kv_a_proj_with_mqa"][:32], leaves[*stack, "kv_down_DC"][0].T)
  assert np.array_equal(fused["kv_a_proj_with_mqa"][32:], leaves[*stack, "k_rope_DR"][0].T)
