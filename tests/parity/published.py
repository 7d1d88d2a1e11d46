"""Turns a checkpoint that transformers wrote into one as DeepSeek publishes them, with numpy alone.

That is: the MTP module, which transformers does not know, with copies of embedding and head; and
either bfloat16, or the matrices of attention and feed-forwards as FP8 blocks of 128 x 128 beside
their scales. The router's bias is float32 in both.
"""

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.parity.families import torch

BLOCK, LARGEST = 128, 448.0
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
_NUMPY = {torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn, torch.bfloat16: ml_dtypes.bfloat16}
IN_BLOCKS = re.compile(
  r".*\.(self_attn\.\w+|mlp\.(\w+\.)*(gate|up|down))_(proj|proj_with_mqa)\.weight"
)
QUANTIZATION = {
  "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
  "weight_block_size": [BLOCK, BLOCK],
}  # fmt: skip


def tensors(folder: Path) -> dict[str, np.ndarray]:
  """All tensors of a directory, whichever file holds them."""
  held: dict[str, np.ndarray] = {}
  for path in sorted(folder.glob("*.safetensors")):
    with safe_open(path, "pt") as file:  # safetensors' numpy knows no FP8
      for name in file.keys():  # noqa: SIM118
        tensor = file.get_tensor(name)
        bits = tensor.view(_BITS[tensor.itemsize]).numpy()
        held[name] = bits.view(_NUMPY.get(tensor.dtype, np.float32))
  return held


def publish(folder: Path, fp8: bool, mtp: bool = True) -> None:
  """Rewrites the directory of a deepseek_v3 in place."""
  config = json.loads((folder / "config.json").read_text())
  held = tensors(folder)
  if mtp:
    held |= _mtp_module(held, config["num_hidden_layers"])
  config |= {"num_nextn_predict_layers": int(mtp), "torch_dtype": "bfloat16"}
  if fp8:
    config["quantization_config"] = QUANTIZATION
  out: dict[str, np.ndarray] = {}
  for name, array in held.items():
    if fp8 and IN_BLOCKS.fullmatch(name):
      out[name], out[f"{name}_scale_inv"] = _blocks(array)
    else:
      out[name] = array if name.endswith("_bias") else array.astype(ml_dtypes.bfloat16)
  save_file(out, folder / "model.safetensors", {"format": "pt"})
  (folder / "config.json").write_text(json.dumps(config))


def dequantized(folder: Path, out: Path) -> None:
  """The same model in float32 with neither blocks nor MTP module, for transformers."""
  config = json.loads((folder / "config.json").read_text())
  held = tensors(folder)
  plain = {}
  for name, array in held.items():
    if name.endswith("_scale_inv") or name.startswith(_mtp_prefix(config["num_hidden_layers"])):
      continue
    array = array.astype(np.float32)
    if f"{name}_scale_inv" in held:
      array = array * _spread(held[f"{name}_scale_inv"], array.shape)
    plain[name] = array
  out.mkdir()
  save_file(plain, out / "model.safetensors", {"format": "pt"})
  config = {k: v for k, v in config.items() if k not in ("quantization_config", "dtype")}
  (out / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}))


def _mtp_prefix(layers: int) -> str:
  return f"model.layers.{layers}."


def _mtp_module(held: dict[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
  """A block like the last layer's, in other numbers, and what joins it to the model."""
  rng = np.random.default_rng(layers)
  last, prefix = f"model.layers.{layers - 1}.", _mtp_prefix(layers)
  block = {n.removeprefix(last): a.shape for n, a in held.items() if n.startswith(last)}
  width = held["model.norm.weight"].size
  joints = {"eh_proj.weight": (width, 2 * width)}
  joints |= dict.fromkeys(("enorm.weight", "hnorm.weight", "shared_head.norm.weight"), (width,))
  module = {
    prefix + name: rng.standard_normal(shape).astype(np.float32) * 0.1 + (len(shape) == 1)
    for name, shape in {**block, **joints}.items()
  }
  embed = held["model.embed_tokens.weight"]
  module[prefix + "embed_tokens.weight"] = embed
  module[prefix + "shared_head.head.weight"] = held.get("lm_head.weight", embed)
  return module


def _blocks(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """A matrix as e4m3 and the scale of each block, ragged ones at the edges included."""
  rows, columns = (-(-size // BLOCK) for size in array.shape)
  padded = np.zeros((rows * BLOCK, columns * BLOCK), np.float32)
  padded[: array.shape[0], : array.shape[1]] = array
  largest = np.abs(padded).reshape(rows, BLOCK, columns, BLOCK).max((1, 3))
  scale = (largest / LARGEST).astype(np.float32)
  return (array / _spread(scale, array.shape)).astype(ml_dtypes.float8_e4m3fn), scale


def _spread(scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Each block's scale at each of its elements."""
  whole = scale.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
  return whole[: shape[0], : shape[1]]
