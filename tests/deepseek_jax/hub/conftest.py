"""A published FP8 checkpoint in small: odd shapes, MTP, written by the safetensors library."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from deepseek_jax.config import MLAConfig
from deepseek_jax.hub import blocks, config_json, names
from deepseek_jax.hub.safetensors import abstract_weights
from deepseek_jax.ops.fp8 import E4M3
from deepseek_jax.presets import preset

# A kv_a_proj of 128 + 64 rows, heads of 192 query rows, ragged edges everywhere else.
_MINI = preset("v3_mini")
_FP8 = dataclasses.replace(
  _MINI,
  vocab=64,
  d_model=160,
  layers=2,
  heads=2,
  dense_ff=200,
  attention=MLAConfig(kv_latent=128, nope_dim=128, rope_dim=64, v_dim=128, q_latent=72),
  moe=dataclasses.replace(_MINI.moe, experts=4, top_k=2, groups=2, top_groups=2, expert_ff=72),
  mtp_depth=1,
)
QUANTIZATION = {
  "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
  "weight_block_size": [128, 128],
}  # fmt: skip


def random_tensors(config, fp8=True, seed=0):
  """A checkpoint's tensors by name, every FP8 code but those that are no numbers."""
  rng = np.random.default_rng(seed)
  shapes = {path: leaf.shape for path, leaf in names.flatten(abstract_weights(config)).items()}
  tensors, copied = {}, {}
  for tensor in names.tensors(config):
    shape = tensor.shape(shapes)
    if fp8 and tensor.blocks:
      codes = rng.integers(0, 0x7F, shape, np.uint8) | rng.integers(0, 2, shape, np.uint8) << 7
      tensors[tensor.name] = codes.view(E4M3)
      scale = rng.random(blocks.scale_shape(tensor, shapes), np.float32)
      tensors[tensor.name + blocks.SUFFIX] = (scale + 0.5) / 4096
    elif tensor.float32:
      tensors[tensor.name] = rng.standard_normal(shape, np.float32)
    else:
      made = 0.05 * rng.standard_normal(shape, np.float32) + ("norm" in tensor.name)
      made = copied.setdefault(tensor.pieces, made.astype(ml_dtypes.bfloat16))
      tensors[tensor.name] = made
  return tensors


def write_checkpoint(folder, config, tensors, fp8=True, files=2):
  """The tensors in `files` shards with an index (one: without), and a config.json."""
  folder.mkdir()
  fields = config_json.to_json(config) | {"torch_dtype": "bfloat16"}
  if fp8:
    fields |= {"quantization_config": QUANTIZATION}
  fields |= {"auto_map": {"AutoModel": "modeling.Evil"}}  # of code that nobody runs
  (folder / "config.json").write_text(json.dumps(fields))
  if files == 1:
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return
  weight_map = {}
  for number in range(files):
    file = f"model-{number + 1:05}-of-{files:05}.safetensors"
    held = dict(list(tensors.items())[number::files])
    save_file(held, folder / file, {"format": "pt"})
    weight_map |= dict.fromkeys(held, file)
  total = sum(array.nbytes for array in tensors.values())
  index = {"metadata": {"total_size": total}, "weight_map": weight_map}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="session")
def fp8_config():
  return _FP8


@pytest.fixture(scope="session")
def fp8_tensors():
  return random_tensors(_FP8)


@pytest.fixture(scope="session")
def fp8_folder(tmp_path_factory, fp8_tensors):
  """Two shards, not to be changed."""
  folder = tmp_path_factory.mktemp("published") / "fp8"
  write_checkpoint(folder, _FP8, fp8_tensors)
  return folder


@pytest.fixture(scope="session")
def single_folder(tmp_path_factory, fp8_tensors):
  """One file, not to be changed."""
  folder = tmp_path_factory.mktemp("published") / "single"
  write_checkpoint(folder, _FP8, fp8_tensors, files=1)
  return folder


@pytest.fixture(scope="session")
def bfloat16_folder(tmp_path_factory):
  """The same architecture in bfloat16, not to be changed."""
  folder = tmp_path_factory.mktemp("published") / "bfloat16"
  write_checkpoint(folder, _FP8, random_tensors(_FP8, fp8=False), fp8=False)
  return folder
