"""FP8 checkpoints in and out: byte for byte from what is held, and equal to their float32 model."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from deepseek_jax.config import ConfigError
from deepseek_jax.hub import safetensors as hub
from deepseek_jax.model.transformer import Transformer, logits
from deepseek_jax.ops.fp8 import E4M3, FP8Blocks, dequantize, dequantize_matrix
from deepseek_jax.presets import preset
from deepseek_jax.sharding import MeshConfig, make_mesh, state_shardings

ROUTER_BIAS = "e_score_correction_bias"


def stored(folder):
  """Every tensor of a directory: dtype, shape and bytes. (The library's numpy lacks FP8.)"""
  found = {}
  for path in folder.glob("*.safetensors"):
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, field in json.loads(data[8:start]).items():
      if name != "__metadata__":
        begin, end = field["data_offsets"]
        found[name] = field["dtype"], field["shape"], data[start + begin : start + end]
  return found


@pytest.fixture(scope="module")
def loaded(fp8_folder):
  return hub.load_pretrained(fp8_folder)


def test_fp8_stays_fp8_and_all_else_is_float32(loaded, fp8_config):
  config, weights, tokenizer = loaded
  assert config == fp8_config and tokenizer is None
  leaves = jax.tree.leaves(weights.params, is_leaf=lambda x: isinstance(x, FP8Blocks))
  assert {leaf.values.dtype for leaf in leaves if isinstance(leaf, FP8Blocks)} == {E4M3}
  assert {leaf.dtype for leaf in leaves if not isinstance(leaf, FP8Blocks)} == {
    np.dtype(np.float32)
  }
  for name in ("embed_VD", "head_DV"):
    assert not isinstance(weights.params[name], FP8Blocks)
  assert not isinstance(weights.params["moe"]["ffn"]["router_DE"], FP8Blocks)
  assert not isinstance(weights.params["mtp_0"]["merge_WD"], FP8Blocks)
  assert isinstance(weights.params["mtp_0"]["block"]["ffn"]["gate_EDF"], FP8Blocks)


def test_values_are_multiplied_by_their_scales(loaded, fp8_tensors):
  """Against the tensors of the file, head by head and expert by expert."""
  plain = dequantize(loaded[1]).params

  def dense(name):
    name = f"model.layers.{name}.weight"
    return dequantize_matrix(fp8_tensors[name], fp8_tensors[name + "_scale_inv"])

  q_b = dense("0.self_attn.q_b_proj")
  q_up_QHK = plain["dense"]["attention"]["q_up_QHK"][0]
  assert np.array_equal(q_up_QHK[:, 1], q_b[192 : 192 + 128].T)
  q_rope_QHR = plain["dense"]["attention"]["q_rope_QHR"][0]
  assert np.array_equal(q_rope_QHR[:, 1], q_b[320:384].T)
  kv_a = dense("1.self_attn.kv_a_proj_with_mqa")
  assert np.array_equal(plain["moe"]["attention"]["k_rope_DR"][0], kv_a[128:].T)
  down = dense("1.mlp.experts.3.down_proj")
  assert np.array_equal(plain["moe"]["ffn"]["down_EFD"][0, 3], down.T)


def test_the_model_computes_the_same_as_in_float32(loaded):
  config, weights, _ = loaded
  tokens_BT = jnp.arange(10)[None]
  held = logits(Transformer(config), weights, tokens_BT)
  assert np.isfinite(held).all() and held.std() > 0.1
  assert np.array_equal(held, logits(Transformer(config), dequantize(weights), tokens_BT))


@pytest.mark.parametrize("dtype", ["float32", "stored"])
def test_fp8_in_fp8_out_is_byte_identical(loaded, dtype, fp8_folder, tmp_path):
  config, weights, _ = (
    loaded if dtype == "float32" else hub.load_pretrained(fp8_folder, None, dtype)
  )
  hub.save_pretrained(tmp_path / "out", config, weights, dtype="fp8", shard_bytes=1e5)
  assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3
  assert stored(tmp_path / "out") == stored(fp8_folder)
  fields = json.loads((tmp_path / "out" / "config.json").read_text())
  assert fields["torch_dtype"] == "bfloat16" and "auto_map" not in fields
  assert fields["quantization_config"] == {
    "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
    "weight_block_size": [128, 128],
  }  # fmt: skip


def test_a_changed_block_changes_its_tensor_and_nothing_else(loaded, fp8_folder, tmp_path):
  """One block of an expert and, held by element, one of a head's rows."""
  config, weights, _ = loaded
  source = stored(fp8_folder)
  changed = {
    "model.layers.1.mlp.experts.1.up_proj.weight": ("moe", "ffn", "up_EDF", (0, 1), np.s_[128:]),
    # Rows 128 to 255 of q_b_proj are the first head's rotary ones and half the second's others.
    "model.layers.0.self_attn.q_b_proj.weight": ("dense", "attention", "q_up_QHK", (0,), None),
  }
  for name, (stack, part, leaf, index, rows) in changed.items():
    params = jax.tree.map(lambda x: x, weights.params)
    held = params[stack][part][leaf]
    values, scale = np.array(held.values), np.array(held.scale)
    if rows is not None:
      values[index][rows] = -values[index][rows]
      scale[index][1] *= 2
      params[stack][part][leaf] = FP8Blocks(values, scale)
    else:
      values[index][:, 1, :64] = -values[index][:, 1, :64]
      scale[index][:, 1, :64] *= 2
      params[stack][part][leaf] = FP8Blocks(values, scale)
      rope = params[stack][part]["q_rope_QHR"]
      scale = np.array(rope.scale)
      scale[index][:, 0] *= 2
      params[stack][part]["q_rope_QHR"] = FP8Blocks(rope.values, scale)
    out = tmp_path / leaf
    hub.save_pretrained(out, config, weights.replace(params=params), dtype="fp8")
    found = stored(out)
    differing = {key for key in source if source[key] != found[key]}
    assert differing == {name, name + "_scale_inv"}
    before = np.frombuffer(source[name + "_scale_inv"][2], np.float32)
    after = np.frombuffer(found[name + "_scale_inv"][2], np.float32)
    assert np.sum(before != after) == 1


def test_bfloat16_from_fp8_rounds_each_tensor_once(loaded, fp8_tensors, tmp_path):
  config, weights, _ = loaded
  hub.save_pretrained(tmp_path / "out", config, weights, dtype="bfloat16")
  found = load_file(tmp_path / "out" / "model.safetensors")
  assert not any(name.endswith("_scale_inv") for name in found)
  for name, array in found.items():
    expected = fp8_tensors[name]
    if expected.dtype == E4M3:
      expected = dequantize_matrix(expected, fp8_tensors[name + "_scale_inv"])
    kind = np.float32 if name.endswith(ROUTER_BIAS) else ml_dtypes.bfloat16
    assert array.dtype == kind and np.array_equal(array, expected.astype(kind))


@pytest.mark.parametrize("dtype", ["float32", "stored"])
def test_bfloat16_in_bfloat16_out_is_byte_identical(dtype, bfloat16_folder, tmp_path):
  config, weights, _ = hub.load_pretrained(bfloat16_folder, dtype=dtype)
  kinds = {leaf.dtype for leaf in jax.tree.leaves(weights.params)}
  assert kinds == {np.dtype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)}
  assert weights.router_bias_LE.dtype == np.float32
  hub.save_pretrained(tmp_path / "out", config, weights, dtype="bfloat16")
  assert stored(tmp_path / "out") == stored(bfloat16_folder)
  # What is quantised comes back as it was quantised.
  hub.save_pretrained(tmp_path / "fp8", config, weights, dtype="fp8")
  _, fp8, _ = hub.load_pretrained(tmp_path / "fp8")
  hub.save_pretrained(tmp_path / "again", config, fp8, dtype="fp8")
  assert stored(tmp_path / "again") == stored(tmp_path / "fp8")


def test_on_a_mesh_everything_lies_where_the_table_says(fp8_folder, loaded, tmp_path):
  mesh = make_mesh(MeshConfig(fsdp=2, expert=2, tensor=2))
  config, placed, _ = hub.load_pretrained(fp8_folder, mesh)
  where = state_shardings(mesh, placed)
  for leaf, sharding, whole in zip(*map(jax.tree.leaves, (placed, where, loaded[1])), strict=True):
    assert leaf.sharding == sharding and np.array_equal(leaf, whole)
  experts = placed.params["moe"]["ffn"]["gate_EDF"]
  assert experts.values.addressable_shards[0].data.shape == (1, 2, 80, 36)
  hub.save_pretrained(tmp_path / "out", config, placed, dtype="fp8")
  assert stored(tmp_path / "out") == stored(fp8_folder)


def test_mapped_files_may_go_once_they_are_read(fp8_folder, tmp_path):
  """No leaf is a view of a file."""
  shutil.copytree(fp8_folder, tmp_path / "in")
  _, weights, _ = hub.load_pretrained(tmp_path / "in", dtype="stored")
  before = [np.array(leaf) for leaf in jax.tree.leaves(weights)]
  for path in (tmp_path / "in").glob("*.safetensors"):
    size = path.stat().st_size
    with open(path, "r+b") as file:
      file.write(b"\1" * size)
  assert all(map(np.array_equal, jax.tree.leaves(weights), before))


def test_only_deepseek_is_exported_as_fp8(tmp_path):
  config = preset("smollm2_135m")
  with pytest.raises(ConfigError, match="fp8"):
    hub.save_pretrained(tmp_path / "out", config, hub.abstract_weights(config), dtype="fp8")
  assert not (tmp_path / "out").exists()


def test_files_are_those_of_the_library(loaded, tmp_path):
  """Aligned, with the metadata that transformers asks for."""
  config, weights, _ = loaded
  hub.save_pretrained(tmp_path / "out", config, weights, dtype="fp8")
  path = tmp_path / "out" / "model.safetensors"
  with safe_open(path, "numpy") as file:
    assert file.metadata() == {"format": "pt"}
  data = path.read_bytes()
  length = int.from_bytes(data[:8], "little")
  sizes = {"F32": 4, "BF16": 2, "F8_E4M3": 1}
  for name, field in json.loads(data[8 : 8 + length]).items():
    if name != "__metadata__":
      assert (8 + length + field["data_offsets"][0]) % sizes[field["dtype"]] == 0
