"""Hugging Face directories in and out: config.json, safetensors, tokenizer.

Reading goes tensor by tensor, so that beside the model itself at most one tensor is held; writing
holds one shard. The directory is written beside its final place and renamed into it.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deepseek_jax.config import ConfigError, ModelConfig, require
from deepseek_jax.data.tokenizer import Tokenizer, load_tokenizer
from deepseek_jax.hub import config_json, names
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.types import Weights

_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_READABLE = ("F32", "BF16", "F16")
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Files that an earlier export may have left, and that a new one may therefore replace.
_OURS = re.compile(
  r"(config|generation_config|.*token.*|vocab|special_tokens_map|chat_template)\.(json|jinja|model)"
  r"|merges\.txt|model.*\.safetensors(\.index\.json)?"
)
_SURPLUS_ALLOWED = re.compile(r".*\.rotary_emb\.inv_freq")  # buffers in old Llama checkpoints


@functools.cache
def abstract_weights(config: ModelConfig) -> Weights:
  """The shapes of a model's weights, without allocating them."""
  model = Transformer(config)
  return jax.eval_shape(lambda: init_weights(model, jax.random.key(0)))


def save_pretrained(
  directory: str | os.PathLike[str],
  config: ModelConfig,
  weights: Weights,
  tokenizer: Tokenizer | None = None,
  dtype: str = "float32",
  shard_bytes: int = 5_000_000_000,
) -> None:
  """Writes a directory that transformers' from_pretrained reads.

  Router biases stay float32 in every dtype, as in the released checkpoints. An earlier export in
  the same place is replaced; ConfigError if anything else is there, if the architecture has no
  Hugging Face form, or if writing fails.
  """
  final = pathlib.Path(directory).absolute()
  require(dtype in _DTYPES, f"dtype is {dtype!r}; use {' or '.join(_DTYPES)}.")
  fields = config_json.to_json(config) | {"torch_dtype": dtype} | _special_ids(tokenizer)
  _require_replaceable(final)
  # Fixed names, so that what a killed export left is cleared away by the next.
  beside, old = (final.with_name(f".{final.name}.{suffix}") for suffix in ("partial", "old"))
  try:
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    _write_json(beside / "config.json", fields)
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}  # as R1's own file
    _write_json(beside / "generation_config.json", _special_ids(tokenizer) | sampling)
    _write_tensors(beside, config, weights, _DTYPES[dtype], shard_bytes)
    if tokenizer is not None:
      tokenizer.save(beside)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
      final.rename(old)
    beside.rename(final)
  except (OSError, SafetensorError) as error:
    raise ConfigError(f"{final} could not be written: {error}.") from error
  finally:
    shutil.rmtree(beside, ignore_errors=True)
    if final.exists():
      shutil.rmtree(old, ignore_errors=True)


def load_pretrained(
  directory: str | os.PathLike[str],
) -> tuple[ModelConfig, Weights, Tokenizer | None]:
  """Architecture, float32 weights and tokenizer (None if there is none) of a directory.

  ConfigError names what is missing, surplus or of another shape than config.json says.
  """
  folder = pathlib.Path(directory)
  fields = _read_json(folder / "config.json")
  quantized = fields.get("quantization_config")
  require(not quantized, f"{folder} is quantized; only float32, bfloat16 and float16 are read.")
  config = config_json.from_json(fields)
  files = _tensor_files(folder)
  config = _present_mtp(config, files)
  return config, _read_weights(config, files), _load_tokenizer(folder)


def read_architecture(directory: str | os.PathLike[str]) -> ModelConfig:
  """The architecture of a directory, without reading its tensors."""
  folder = pathlib.Path(directory)
  config = config_json.from_json(_read_json(folder / "config.json"))
  return _present_mtp(config, _tensor_files(folder))


def is_pretrained(directory: str | os.PathLike[str]) -> bool:
  """Whether the directory looks like a Hugging Face checkpoint."""
  folder = pathlib.Path(directory)
  return any((folder / name).is_file() for name in (_SINGLE, _INDEX))


def _special_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
  """The ids of special tokens as config.json has them; null, not transformers' own, if unknown."""
  ids = ("bos", "eos", "pad")
  return {f"{name}_token_id": getattr(tokenizer, f"{name}_id", None) for name in ids}


def _require_replaceable(final: pathlib.Path) -> None:
  """Refuses a destination that holds anything but an earlier export."""
  require(not final.exists() or final.is_dir(), f"{final} is a file; choose another directory.")
  if final.is_dir():
    foreign = sorted(p.name for p in final.iterdir() if not _OURS.fullmatch(p.name))
    require(not foreign, f"{final} holds {foreign[:1]}, no export; choose another directory.")


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_tensors(
  folder: pathlib.Path, config: ModelConfig, weights: Weights, dtype: np.dtype, shard_bytes: int
) -> None:
  """The weights in one file, or in shards with an index."""
  leaves = {path: np.asarray(leaf) for path, leaf in names.flatten(weights).items()}
  shapes = {path: leaf.shape for path, leaf in leaves.items()}
  sizes = {
    t: int(np.prod(t.shape(shapes))) * (4 if t.float32 else dtype.itemsize)
    for t in names.tensors(config)
    if t.written
  }
  shards = _shards(sizes, shard_bytes)
  index: dict[str, str] = {}
  for number, shard in enumerate(shards, start=1):
    name = _SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
    arrays = {t.name: t.encode(leaves).astype(np.float32 if t.float32 else dtype) for t in shard}
    arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    save_file(arrays, folder / name, metadata={"format": "pt"})
    index |= dict.fromkeys(arrays, name)
  if len(shards) > 1:
    total = {"total_size": sum(sizes.values())}
    _write_json(folder / _INDEX, {"metadata": total, "weight_map": index})


def _shards(sizes: Mapping[names.Tensor, int], limit: int) -> list[list[names.Tensor]]:
  """The tensors in order, in runs of at most `limit` bytes (or one tensor)."""
  shards: list[list[names.Tensor]] = [[]]
  held = 0
  for tensor, size in sizes.items():
    if shards[-1] and held + size > limit:
      shards.append([])
      held = 0
    shards[-1].append(tensor)
    held += size
  return shards


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise ConfigError(f"{path} does not exist; give a Hugging Face directory.") from error
  except (OSError, ValueError) as error:
    raise ConfigError(f"{path} is not readable JSON: {error}.") from error
  require(isinstance(value, dict), f"{path} must hold an object.")
  return value


def _tensor_files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """The file of each tensor in the directory, by the tensor's name."""
  if (folder / _INDEX).exists():
    index = _read_json(folder / _INDEX).get("weight_map")
    require(isinstance(index, dict), f"{folder / _INDEX} has no weight_map.")
    assert isinstance(index, dict)
    return {name: folder / file for name, file in index.items()}
  require((folder / _SINGLE).exists(), f"{folder} holds neither {_SINGLE} nor {_INDEX}.")
  with _open(folder / _SINGLE) as file:
    return dict.fromkeys(file.keys(), folder / _SINGLE)


def _open(path: pathlib.Path) -> Any:
  """An open safetensors file; ConfigError if it is not one."""
  try:
    return safe_open(path, framework="numpy")
  except (OSError, SafetensorError) as error:
    raise ConfigError(f"{path} is not a readable safetensors file: {error}.") from error


def _present_mtp(config: ModelConfig, files: Mapping[str, pathlib.Path]) -> ModelConfig:
  """`config` without MTP modules if the files hold none: transformers drops them when saving."""
  prefixes = tuple(f"model.layers.{config.layers + k}." for k in range(config.mtp_depth))
  if prefixes and not any(name.startswith(prefixes) for name in files):
    return dataclasses.replace(config, mtp_depth=0)
  return config


def _read_weights(config: ModelConfig, files: Mapping[str, pathlib.Path]) -> Weights:
  """All tensors of the checkpoint, in our tree."""
  table = {tensor.name: tensor for tensor in names.tensors(config)}
  for name, tensor in table.items():
    require(name in files or tensor.copy, f"the checkpoint has no tensor {name!r}.")
  for name in files:
    known = name in table or _SURPLUS_ALLOWED.fullmatch(name) is not None
    require(known, f"the checkpoint has a tensor {name!r}, which config.json does not account for.")
  abstract = names.flatten(abstract_weights(config))
  leaves = {path: np.zeros(leaf.shape, np.float32) for path, leaf in abstract.items()}
  copies = []
  for name, array in _read_tensors({n: files[n] for n in table if n in files}):
    tensor = table[name]
    shape = tensor.shape({p.path: leaves[p.path].shape for p in tensor.pieces})
    require(
      array.shape == shape,
      f"tensor {name!r} has shape {list(array.shape)}; config.json makes it {list(shape)}.",
    )
    if tensor.copy:
      copies.append((tensor, array))
    else:
      tensor.decode(array, leaves)
  for tensor, array in copies:
    same = np.array_equal(tensor.encode(leaves), array.astype(np.float32))
    require(same, f"tensor {tensor.name!r} differs from the one it should be a copy of.")
  params, bias_LE = names.unflatten({path: jnp.asarray(leaf) for path, leaf in leaves.items()})
  return Weights(params, bias_LE)


def _read_tensors(files: Mapping[str, pathlib.Path]) -> Iterator[tuple[str, np.ndarray]]:
  """The named tensors one after another, opening each file once."""
  for path in sorted(set(files.values())):
    with _open(path) as file:
      held = set(file.keys())
      for name in (n for n, p in files.items() if p == path):
        require(name in held, f"{path} has no tensor {name!r}, though the index says so.")
        dtype = file.get_slice(name).get_dtype()
        require(
          dtype in _READABLE, f"tensor {name!r} has dtype {dtype}; use {', '.join(_READABLE)}."
        )
        yield name, file.get_tensor(name)


def _load_tokenizer(folder: pathlib.Path) -> Tokenizer | None:
  """The directory's tokenizer, or None."""
  return load_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
