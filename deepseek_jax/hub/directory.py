"""A Hugging Face directory: which of its files are used, and what their headers say.

Nothing outside the directory is read, nothing is unpickled, and no code in it is run, whatever its
index, its links or its config.json's auto_map say.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from deepseek_jax.config import ConfigError, ModelConfig, require
from deepseek_jax.data.hf_tokenizer import MORE_TEMPLATES, TRAVELS
from deepseek_jax.hub import checksums, config_json, quantization_json, rope_json
from deepseek_jax.hub.strict_json import read_object
from deepseek_jax.hub.tensor_file import Entry, read_header

logger = logging.getLogger(__name__)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_CONFIG = "config.json"
# What is read beside the tensors, of which an export writes some.
TEXTS = re.compile(
  r"(config|generation_config|.*token.*|vocab|special_tokens_map|chat_template)\.(json|jinja|model)"
  r"|merges\.txt|model\.safetensors\.index\.json"
)
_WEIGHTS = re.compile(r"model.*\.safetensors")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_ADAPTER = "adapter_config.json"  # of PEFT
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_FUSED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_PICKLES = re.compile(r".*\.(bin|pt|pth|ckpt|pkl)(\.index\.json)?")


@dataclasses.dataclass(frozen=True)
class Directory:
  """What a directory says it holds."""

  folder: pathlib.Path
  config: ModelConfig
  entries: dict[str, Entry]  # by the tensor's name


def is_pretrained(directory: str | os.PathLike[str]) -> bool:
  """Whether the directory is, or pretends to be, a Hugging Face checkpoint."""
  folder = pathlib.Path(directory)
  if any((folder / name).is_file() for name in (SINGLE, INDEX)):
    return True
  if (folder / "checkpoints").exists():  # of a job
    return False
  parts = (folder / _ADAPTER).is_file() or bool(_shards(folder))
  return parts or ((folder / _CONFIG).is_file() and bool(_pickles(folder)))


def is_export(path: pathlib.Path) -> bool:
  """Whether an export may have written this file or folder, by its name."""
  if path.is_dir():
    return path.name == MORE_TEMPLATES
  texts = (TEXTS, TRAVELS, _WEIGHTS)
  return path.name == checksums.FILE or any(t.fullmatch(path.name) for t in texts)


def read_directory(folder: pathlib.Path, hashed: bool) -> Directory:
  """The architecture and every tensor's place; with `hashed` the whole of every file is verified.

  Without it only the texts are.

  Raises:
    ConfigError: a file is missing, damaged, elsewhere, or not what SHA256SUMS says.
  """
  _heed_adapter(folder)
  texts = [path.name for path in folder.glob("*") if TEXTS.fullmatch(path.name)]
  require(_CONFIG in texts, f"{folder / _CONFIG} does not exist; give a Hugging Face directory.")
  _require_inside(folder, texts)
  checksums.verify(folder, texts)
  config = _architecture(folder, read_object(folder / _CONFIG))
  index = _read_index(folder)
  files = [SINGLE] if index is None else sorted(set(index.values()))
  _require_inside(folder, files)
  if hashed:
    checksums.verify(folder, {*files, *checksums.listed(folder)} - set(texts))
  entries = _unfused(_entries(folder, files, index))
  with _naming(folder):
    _require_plausible(config, entries)
  config = _present_mtp(config, entries)
  return Directory(folder, config, _without_surplus_mtp(folder, config, entries))


def _architecture(folder: pathlib.Path, fields: Mapping[str, Any]) -> ModelConfig:
  """The architecture that config.json describes; what it cannot be is said of that file."""
  with _naming(folder):
    quantization_json.check(fields)
    config = config_json.from_json(fields)
  for name in rope_json.left_out(fields):
    _tell_left_out(folder / _CONFIG, name)
  return config


@contextlib.contextmanager
def _naming(folder: pathlib.Path) -> Iterator[None]:
  """Has refusals of a configuration say which file it is of."""
  try:
    yield
  except ConfigError as error:
    path, told = str(folder / _CONFIG), str(error)
    named = told.replace(_CONFIG, path, 1)
    raise ConfigError(named if _CONFIG in told else f"{path} describes no model: {told}") from error


def _heed_adapter(folder: pathlib.Path) -> None:
  """Refuses a PEFT adapter, which is no model; warns of one beside a model, for it is not read."""
  if not (folder / _ADAPTER).is_file():
    return
  base = read_object(folder / _ADAPTER).get("base_model_name_or_path")
  base = base if isinstance(base, str) and base else "unknown"
  whole = _shards(folder) or any((folder / name).is_file() for name in (SINGLE, INDEX))
  merge = "merge it into the model with peft's merge_and_unload"
  require(bool(whole), f"{folder} is a PEFT adapter of {base!r:.200}, not a model; {merge} first.")
  checksums.tell_once(f"{folder / _ADAPTER}: the adapter beside the model is left out; {merge}.")


@functools.cache
def _tell_left_out(file: pathlib.Path, name: str) -> None:
  """Says, once for each file, that a field of its rope scaling changes nothing."""
  logger.warning("%s: rope_scaling's %s is left out, as transformers leaves it out.", file, name)


def _pickles(folder: pathlib.Path) -> list[str]:
  """Weights in a format that runs code when read."""
  return sorted(p.name for p in folder.glob("*") if _PICKLES.fullmatch(p.name))


def _shards(folder: pathlib.Path) -> list[str]:
  """Files that are each a part of a model."""
  return sorted(p.name for p in folder.glob("*.safetensors") if _SHARD.fullmatch(p.name))


def _require_inside(folder: pathlib.Path, names: Iterable[str]) -> None:
  """Refuses files that lie elsewhere; links into the cache of huggingface_hub are as it makes them.

  There `models--X/snapshots/REVISION/` holds links into `models--X/blobs/`.
  """
  roots = [folder.resolve()]
  if folder.resolve().parent.name == "snapshots":
    roots.append(folder.resolve().parent.parent / "blobs")
  for name in names:
    path = folder / name
    require(path.is_file(), f"{path} does not exist; fetch the whole directory again.")
    require(
      path.resolve().parent in roots, f"{path} is a link that leaves {folder}; put the file there."
    )


def _read_index(folder: pathlib.Path) -> dict[str, str] | None:
  """The file of each tensor by the index's word; None where there is one file without an index."""
  single, indexed = ((folder / name).is_file() for name in (SINGLE, INDEX))
  pickles = _pickles(folder)
  if not single and not indexed and pickles:
    raise ConfigError(f"{folder / pickles[0]} is a pickle, which is never read; give safetensors.")
  for part in _shards(folder)[:1]:
    told = f"{folder} holds {part} but no {INDEX}, which says what lies where; fetch that too."
    require(single or indexed, told)
  require(single or indexed, f"{folder} holds neither {SINGLE} nor {INDEX}.")
  require(not (single and indexed), f"{folder} holds both {SINGLE} and {INDEX}; remove one.")
  if not indexed:
    return None
  weight_map = read_object(folder / INDEX).get("weight_map")
  right = isinstance(weight_map, dict) and len(weight_map) > 0
  require(right, f"{folder / INDEX} has no weight_map; fetch it again.")
  assert isinstance(weight_map, dict)
  for name, file in weight_map.items():
    _require_plain(folder, name, file)
  return weight_map


def _require_plain(folder: pathlib.Path, name: str, file: Any) -> None:
  """Refuses an index that leads out of the directory or to a pickle."""
  where = f"{folder / INDEX} puts tensor {name!r} into {file!r}"
  named = isinstance(file, str) and 0 < len(file) < 256
  require(named, f"{where[:400]}, which is no file name.")
  require(not _PICKLES.fullmatch(file), f"{where}, a pickle, which is never read.")
  plain = file.endswith(".safetensors") and not re.search(r"[/\\\0]", file) and file[0] != "."
  require(plain, f"{where}; only .safetensors files of the same directory are read.")


def _entries(
  folder: pathlib.Path, files: Iterable[str], index: Mapping[str, str] | None
) -> dict[str, Entry]:
  """The tensors of all files, which must be those of the index."""
  entries: dict[str, Entry] = {}
  for file in files:
    held = read_header(folder / file)
    for name, entry in held.items():
      listed = index is None or index.get(name) == file
      require(listed, f"{folder / file} has a tensor {name!r} that the index does not put there.")
      entries[name] = entry
  for name, file in (index or {}).items():
    require(name in entries, f"{folder / file} has no tensor {name!r}, though the index says so.")
  if index is not None:
    _check_total(folder, entries.values())
  return entries


def _check_total(folder: pathlib.Path, entries: Iterable[Entry]) -> None:
  """The index's total_size is the bytes of all tensors, or with their headers; or it is absent."""
  metadata = read_object(folder / INDEX).get("metadata", {})
  require(isinstance(metadata, dict), f"{folder / INDEX} has metadata that is no object.")
  total = metadata.get("total_size")
  entries = list(entries)
  least = sum(entry.nbytes for entry in entries)
  most = sum(path.stat().st_size for path in {entry.path for entry in entries})
  number = isinstance(total, (int, float)) and not isinstance(total, bool)
  require(
    total is None or (number and least <= total <= most),
    f"{folder / INDEX} has total_size = {total!r}, but the tensors have {least} bytes; mend or "
    "remove that field.",
  )


def _require_plausible(config: ModelConfig, entries: Mapping[str, Entry]) -> None:
  """Refuses counts far beyond what the files hold before anything is made in that number."""
  most = len(entries)
  moe = config.moe
  counts = {
    "num_hidden_layers": config.layers,
    "num_nextn_predict_layers": config.mtp_depth,
    "n_routed_experts": moe.experts if moe and config.expert_layers else 0,
  }
  for name, count in counts.items():
    require(
      count <= most, f"config.json has {name} = {count}, but the files hold only {most} tensors."
    )
  elements = sum(entry.nbytes for entry in entries.values())
  widest = max(
    config.vocab, config.d_model, config.heads, config.dense_ff, moe.expert_ff if moe else 0,
    *(v for v in vars(config.attention).values() if isinstance(v, int)),
  )  # fmt: skip
  require(
    widest <= max(elements, 2**16),
    f"config.json has a size of {widest}, but all tensors together have {elements} bytes.",
  )


def _present_mtp(config: ModelConfig, entries: Mapping[str, Entry]) -> ModelConfig:
  """`config` without MTP modules if the files hold none: transformers drops them when saving."""
  prefixes = tuple(f"model.layers.{config.layers + k}." for k in range(config.mtp_depth))
  if prefixes and not any(name.startswith(prefixes) for name in entries):
    return dataclasses.replace(config, mtp_depth=0)
  return config


def _without_surplus_mtp(
  folder: pathlib.Path, config: ModelConfig, entries: dict[str, Entry]
) -> dict[str, Entry]:
  """The tensors without those of MTP modules that config.json does not count, which is told."""
  found = (_LAYER.match(name) for name in entries)
  depths = {int(m[1]) for m in found if m and int(m[1]) >= config.layers + config.mtp_depth}
  surplus = sorted(d for d in depths if f"model.layers.{d}.eh_proj.weight" in entries)
  if not surplus:
    return entries
  logger.warning(
    "%s: the MTP module in layer %s is left out, for config.json counts %s.",
    folder,
    ", ".join(map(str, surplus)),
    config.mtp_depth,
  )
  prefixes = tuple(f"model.layers.{d}." for d in surplus)
  return {name: entry for name, entry in entries.items() if not name.startswith(prefixes)}


def _unfused(entries: Mapping[str, Entry]) -> dict[str, Entry]:
  """The tensors, with a layer's experts apart where transformers keeps them in two tensors.

  `gate_up_proj` [E, 2F, D] and `down_proj` [E, D, F], of which an expert's matrices are runs of
  bytes.
  """
  apart: dict[str, Entry] = {}
  for name, entry in entries.items():
    kind = name.rpartition(".mlp.experts.")[2]
    if kind not in _FUSED or len(entry.shape) != 3:
      apart[name] = entry
      continue
    experts, rows, columns = entry.shape
    names = _FUSED[kind]
    require(rows % len(names) == 0, f"tensor {name!r} has shape {list(entry.shape)}; mend it.")
    shape = rows // len(names), columns
    size = math.prod(shape) * entry.nbytes // max(math.prod(entry.shape), 1)
    for number in range(experts * len(names)):
      expert, which = divmod(number, len(names))
      own = f"{name.removesuffix(kind)}{expert}.{names[which]}.weight"
      start = entry.start + number * size
      apart[own] = dataclasses.replace(entry, name=own, shape=shape, start=start)
  return apart
