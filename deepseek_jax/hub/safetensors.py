"""Hugging Face directories in and out: config.json, safetensors, tokenizer.

Reading goes tensor by tensor: each is a view of its mapped file, from which the leaf of ours that
it is a part of is filled, on the mesh. Writing goes tensor by tensor too. The directory is written
beside its final place and renamed into it.
"""

import functools
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from deepseek_jax.config import ConfigError, MLAConfig, ModelConfig, require
from deepseek_jax.data.hf_tokenizer import HFTokenizer
from deepseek_jax.data.tokenizer import Tokenizer, load_tokenizer
from deepseek_jax.data.tokenizer_files import older_form
from deepseek_jax.hub import checksums, config_json, names, quantization_json
from deepseek_jax.hub.blocks import Shapes, leaf_scale_shapes, scale_parts
from deepseek_jax.hub.checksums import tell_once
from deepseek_jax.hub.contents import Stored, leaf_dtypes, match, require_copies
from deepseek_jax.hub.directory import INDEX, SINGLE, is_export, is_pretrained, read_directory
from deepseek_jax.hub.export import FORMATS, Output, outputs, shards
from deepseek_jax.hub.placement import Leaf, leaf_on_mesh
from deepseek_jax.hub.tensor_file import in_file_order, write_file
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.ops.fp8 import FP8Blocks
from deepseek_jax.types import Weights

__all__ = [
  "abstract_weights", "is_pretrained", "load_pretrained", "read_architecture", "save_pretrained",
]  # fmt: skip


@functools.cache
def abstract_weights(config: ModelConfig) -> Weights:
  """The shapes of a model's weights, without allocating them."""
  model = Transformer(config)
  return jax.eval_shape(lambda: init_weights(model, jax.random.key(0)))


def load_pretrained(
  directory: str | os.PathLike[str],
  mesh: Mesh | None = None,
  dtype: str = "float32",
) -> tuple[ModelConfig, Weights, Tokenizer | None]:
  """Architecture, weights and tokenizer (None if there is none) of a directory.

  FP8 tensors stay FP8, as `ops.fp8.FP8Blocks`; see `ops.fp8.dequantize`. All others become float32,
  or with dtype "stored" bfloat16 where the files have that. If the directory has SHA256SUMS, every
  file is held against it first; if not, standard error says so.

  Args:
    directory: config.json, model.safetensors or its shards with their index, a tokenizer.
    mesh: where the weights are placed, by `sharding.state_shardings`; None is the default device.
    dtype: "float32" or "stored".

  Raises:
    ConfigError: one sentence that names the file, tensor or field that is missing, surplus,
      damaged, or of another shape than config.json says.
  """
  require(dtype in ("float32", "stored"), f"dtype is {dtype!r}; use float32 or stored.")
  found = read_directory(pathlib.Path(directory), hashed=True)
  abstract = names.flatten(_abstract(found.config))
  shapes = {path: leaf.shape for path, leaf in abstract.items()}
  stored = match(found.config, found.entries, shapes, found.folder)
  dtypes = leaf_dtypes(stored, widen=dtype == "float32")
  require_copies(stored)
  tokenizer = _load_tokenizer(found.folder)
  weights = _fill([item for item in stored if not item.tensor.copy], shapes, dtypes, mesh)
  return found.config, weights, tokenizer


def read_architecture(directory: str | os.PathLike[str]) -> ModelConfig:
  """The architecture of a directory, without reading its tensors."""
  return read_directory(pathlib.Path(directory), hashed=False).config


def _abstract(config: ModelConfig) -> Weights:
  """`abstract_weights` of a configuration that a file gave."""
  try:
    return abstract_weights(config)
  except (ArithmeticError, TypeError, ValueError) as error:
    reason = str(error).partition("\n")[0][:200]
    raise ConfigError(f"config.json describes no model that can be built ({reason}).") from error


def _load_tokenizer(folder: pathlib.Path) -> Tokenizer | None:
  """The directory's tokenizer, or None, of which the user is told if it is there unread."""
  if (folder / "tokenizer.json").is_file():
    return load_tokenizer(folder)
  if told := older_form(folder):
    tell_once(told)
  return None


def _fill(
  stored: list[Stored], shapes: Shapes, dtypes: Mapping[names.Path, np.dtype], mesh: Mesh | None
) -> Weights:
  """The weights, each leaf filled from its tensors."""
  leaves = {
    path: leaf_on_mesh(path[-1], shape, dtypes.get(path, np.dtype(np.float32)), mesh)
    for path, shape in shapes.items()
  }
  scales: dict[names.Path, Leaf] = {}
  for item in stored:
    tensor = item.tensor
    parts = tensor.parts(item.entry.read(), shapes)
    for piece, part in zip(tensor.pieces, parts, strict=True):
      leaves[piece.path].fill(piece.index, part)
    if item.scale is not None:
      parts = scale_parts(tensor, item.read_scale(), shapes)
      for piece, part, shape in zip(tensor.pieces, parts, leaf_scale_shapes(tensor, shapes)):
        if piece.path not in scales:
          scales[piece.path] = leaf_on_mesh(piece.path[-1], shape, np.dtype(np.float32), mesh)
        scales[piece.path].fill(piece.index, part)
  filled: dict[names.Path, Any] = {}
  for path, leaf in leaves.items():
    array = leaf.take()
    filled[path] = FP8Blocks(array, scales[path].take()) if path in scales else array
  return Weights(*names.unflatten(filled))


def save_pretrained(
  directory: str | os.PathLike[str],
  config: ModelConfig,
  weights: Weights,
  tokenizer: Tokenizer | None = None,
  dtype: str = "float32",
  shard_bytes: float = 5e9,
) -> None:
  """Writes a directory that transformers, vLLM and SGLang read, with SHA256SUMS of its files.

  As "fp8" it is what DeepSeek-V3 publishes: projections and experts in FP8 blocks, the rest
  bfloat16. FP8 leaves are written as they are held, byte for byte; others are quantised. Router
  biases stay float32 in every dtype. An earlier export in the same place is replaced.

  Args:
    directory: where to.
    config: the architecture.
    weights: arrays, or FP8 leaves, on any mesh.
    tokenizer: its files go along.
    dtype: float32, bfloat16 or fp8.
    shard_bytes: the most that a file of tensors holds, unless one tensor is larger.

  Raises:
    ConfigError: anything but an export is there, the architecture has no such form, a weight is
      no finite number, or writing fails.
  """
  final = pathlib.Path(directory).absolute()
  require(dtype in FORMATS, f"dtype is {dtype!r}; use {', '.join(FORMATS)}.")
  require(
    dtype != "fp8" or isinstance(config.attention, MLAConfig),
    "dtype is fp8, in which only DeepSeek's architectures are published; use bfloat16.",
  )
  require(shard_bytes > 0, f"shard_bytes is {shard_bytes}; it must be positive.")
  fields = config_json.to_json(config) | _special_ids(tokenizer)
  fields["torch_dtype"] = "float32" if dtype == "float32" else "bfloat16"
  if dtype == "fp8":
    fields[quantization_json.FIELD] = quantization_json.FP8
  _require_replaceable(final)
  # Fixed names, so that what a killed export left is cleared away by the next.
  beside, old = (final.with_name(f".{final.name}.{suffix}") for suffix in ("partial", "old"))
  try:
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    _write_json(beside / "config.json", fields)
    _write_json(beside / "generation_config.json", _generation_fields(tokenizer))
    sums = _write_tensors(beside, outputs(config, weights, dtype), shard_bytes)
    if tokenizer is not None:
      tokenizer.save(beside)
    checksums.write(beside, sums)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
      final.rename(old)
    beside.rename(final)
  except OSError as error:
    raise ConfigError(f"{final} could not be written: {error}.") from error
  finally:
    shutil.rmtree(beside, ignore_errors=True)
    if final.exists():
      shutil.rmtree(old, ignore_errors=True)


def _special_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
  """The ids of special tokens as config.json has them; null, not transformers' own, if unknown."""
  if isinstance(tokenizer, HFTokenizer):
    return tokenizer.special_ids
  ids = ("bos", "eos", "pad")
  return {f"{name}_token_id": getattr(tokenizer, f"{name}_id", None) for name in ids}


def _generation_fields(tokenizer: Tokenizer | None) -> dict[str, Any]:
  """generation_config.json: the model's own where it came with one, else R1's sampling."""
  if isinstance(tokenizer, HFTokenizer):
    return tokenizer.generation
  sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
  return _special_ids(tokenizer) | sampling


def _require_replaceable(final: pathlib.Path) -> None:
  """Refuses a destination that holds anything but an earlier export, which has checksums."""
  require(not final.exists() or final.is_dir(), f"{final} is a file; choose another directory.")
  if final.is_dir():
    foreign = sorted(p.name for p in final.iterdir() if not is_export(p))
    require(not foreign, f"{final} holds {foreign[:1]}, no export; choose another directory.")
    require(
      not any(final.iterdir()) or (final / checksums.FILE).is_file(),
      f"{final} holds a model that was not exported here (it has no {checksums.FILE}), which would "
      "be lost; choose another directory.",
    )


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_tensors(
  folder: pathlib.Path, written: list[Output], shard_bytes: float
) -> dict[str, str]:
  """The weights in one file, or in shards with an index; returns their SHA-256 by file name."""
  runs = shards(written, shard_bytes)
  index: dict[str, str] = {}
  sums: dict[str, str] = {}
  for number, run in enumerate(runs, start=1):
    file = SINGLE if len(runs) == 1 else f"model-{number:05}-of-{len(runs):05}.safetensors"
    made = {output.planned: output.make for output in run}
    planned = in_file_order(made)
    sums[file] = write_file(folder / file, planned, (made[tensor]() for tensor in planned))
    index |= {tensor.name: file for tensor in made}
  if len(runs) > 1:
    total = {"total_size": sum(output.planned.nbytes for output in written)}
    _write_json(folder / INDEX, {"metadata": total, "weight_map": index})
  return sums
