"""GGUF files of Llama architecture, as llama.cpp keeps them; an extra: deepseek-jax[gguf].

A file holds the architecture and the tokenizer as metadata and the tensors in blocks of few bits,
which become float32 here, one tensor at a time. The converter has reordered the rows of the query
and key projections, per head from halves (k, k + K/2) to adjacent pairs; they are put back.
"""

import math
import os
from pathlib import Path

import jax
import numpy as np

from deepseek_jax.config import ConfigError, GQAConfig, ModelConfig, RopeConfig, require
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.hub import names
from deepseek_jax.hub.gguf_header import MAGIC, Header, read_header
from deepseek_jax.hub.gguf_tokenizer import gguf_tokenizer
from deepseek_jax.hub.placement import leaf_on_mesh
from deepseek_jax.hub.safetensors import abstract_weights
from deepseek_jax.ops.rope import frequencies
from deepseek_jax.types import Weights

# Names of a Hugging Face checkpoint (which names.py maps to our leaves) and those of GGUF.
_TOP = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
}
_LAYER = {
  "input_layernorm.weight": "attn_norm.weight",
  "post_attention_layernorm.weight": "ffn_norm.weight",
  "self_attn.q_proj.weight": "attn_q.weight",
  "self_attn.k_proj.weight": "attn_k.weight",
  "self_attn.v_proj.weight": "attn_v.weight",
  "self_attn.o_proj.weight": "attn_output.weight",
  "mlp.gate_proj.weight": "ffn_gate.weight",
  "mlp.up_proj.weight": "ffn_up.weight",
  "mlp.down_proj.weight": "ffn_down.weight",
}
_PAIRED = ("attn_q.weight", "attn_k.weight")  # their rows are adjacent pairs
_FLOAT = np.dtype(np.float32)
_ROPE = "rope_freqs.weight"  # by what Llama 3 divides each pair's frequency


def is_gguf(path: str | os.PathLike[str]) -> bool:
  """Whether the path is a file that is called, or begins, like a GGUF file."""
  file = Path(path)
  if not file.is_file():
    return False
  with file.open("rb") as opened:
    return file.suffix == ".gguf" or opened.read(len(MAGIC)) == MAGIC


def read_gguf_architecture(path: str | os.PathLike[str]) -> ModelConfig:
  """The architecture of a GGUF file, without reading its tensors; ConfigError as in `load_gguf`."""
  return _architecture(read_header(path))


def load_gguf(
  path: str | os.PathLike[str], mesh: jax.sharding.Mesh | None = None
) -> tuple[ModelConfig, Weights, Tokenizer | None]:
  """Architecture, float32 weights (on the mesh) and tokenizer (None if there is none) of a file.

  Leaves are allocated once and filled in place; beside them one tensor of the file is held.

  Raises:
    ConfigError: the file is damaged, of another architecture, or lacks a tensor.
  """
  header = read_header(path)
  config = _architecture(header)
  tokenizer = gguf_tokenizer(header)
  shapes = {leaf: x.shape for leaf, x in names.flatten(abstract_weights(config)).items()}
  table = _table(config)
  _check_tensors(header, table, shapes)
  leaves = {leaf: leaf_on_mesh(leaf[-1], shapes[leaf], _FLOAT, mesh) for leaf in shapes}
  for name, tensor in table.items():
    array = _read(header, name)
    if name.endswith(_PAIRED):
      array = _halves(array, config)
    for piece, part in zip(tensor.pieces, tensor.parts(array, shapes), strict=True):
      leaves[piece.path].fill(piece.index, part)
  params, bias_LE = names.unflatten({path: leaf.take() for path, leaf in leaves.items()})
  return config, Weights(params, bias_LE), tokenizer


def _architecture(header: Header) -> ModelConfig:
  """What the metadata and the tensors' shapes say of the model; ConfigError if it is no Llama."""
  kind = header.get("general.architecture", str)
  require(
    kind == "llama", f"{header.path} is of architecture {kind!r}; only llama is read from GGUF."
  )
  for key, most in {
    "llama.expert_count": 0,
    "llama.attention.sliding_window": 0,
    "split.count": 1,
  }.items():
    value = header.get(key, int, 0)
    require(value <= most, f"{header.path} has {key} = {value}; such files are not supported.")
  embed = header.tensors.get("token_embd.weight")
  require(embed is not None, f"{header.path} has no tensor 'token_embd.weight'.")
  assert embed is not None
  d_model = _size(header, "embedding_length")
  heads = _size(header, "attention.head_count")
  head_dim = _size(header, "attention.key_length", d_model // heads)
  for name in ("rope.dimension_count", "attention.value_length"):
    value = _size(header, name, head_dim)
    require(
      value == head_dim, f"{header.path} has llama.{name} = {value}; only {head_dim} is supported."
    )
  try:
    return ModelConfig(
      vocab=_size(header, "vocab_size", embed.shape[0]),
      d_model=d_model,
      layers=_size(header, "block_count", most=len(header.tensors)),
      heads=heads,
      dense_ff=_size(header, "feed_forward_length"),
      attention=GQAConfig(_size(header, "attention.head_count_kv", heads), head_dim),
      rope=_rope(header, head_dim),
      norm_eps=_shortest(header.get("llama.attention.layer_norm_rms_epsilon", float)),
      tied="output.weight" not in header.tensors,
      max_context=header.get("llama.context_length", int),
      init_std=0.02,  # which the file does not know; config.json's default
    )
  except ConfigError as error:
    if str(header.path) in str(error):
      raise
    raise ConfigError(f"{header.path} describes no model: {error}") from error


def _size(header: Header, name: str, default: int | None = None, most: int | None = None) -> int:
  """A size of the architecture, at most `most` or the size of the file's largest tensor."""
  value = header.get(f"llama.{name}", int, default)
  most = most or max(math.prod(entry.shape) for entry in header.tensors.values())
  require(
    0 < value <= most,
    f"{header.path} has llama.{name} = {value}; its tensors allow 1 to {most}.",
  )
  return value


def _shortest(value: float) -> float:
  """A float32 as the shortest decimal that means it: 1e-05, not 9.999999747378752e-06."""
  return float(str(np.float32(value)))


def _rope(header: Header, head_dim: int) -> RopeConfig:
  """Rotary embedding: plain, YaRN, or Llama 3's, which GGUF keeps as a tensor of divisors."""
  theta = _shortest(header.get("llama.rope.freq_base", float, 10_000.0))
  kind = header.get("llama.rope.scaling.type", str, "none")
  require(
    kind in ("none", "yarn"),
    f"{header.path} has llama.rope.scaling.type = {kind!r}; only none and yarn are supported.",
  )
  if _ROPE in header.tensors:
    require(kind == "none", f"{header.path} has both {_ROPE} and YaRN; only one is supported.")
    return _llama3(header, RopeConfig(theta), head_dim)
  if kind == "none":
    return RopeConfig(theta)
  scale = header.get("llama.rope.scaling.attn_factor", float, 1.0)
  require(
    scale == 1.0,
    f"{header.path} has llama.rope.scaling.attn_factor = {scale}; only 1 is supported.",
  )
  return RopeConfig(
    theta,
    "yarn",
    _shortest(header.get("llama.rope.scaling.factor", float)),
    header.get("llama.rope.scaling.original_context_length", int),
    _shortest(header.get("llama.rope.scaling.yarn_beta_fast", float, 32.0)),
    _shortest(header.get("llama.rope.scaling.yarn_beta_slow", float, 1.0)),
  )


def _llama3(header: Header, plain: RopeConfig, head_dim: int) -> RopeConfig:
  """The scaling whose divisors the file has; all of Llama 3.1 to 3.3 differ in the factor alone."""
  entry = header.tensors[_ROPE]
  require(
    entry.shape == (head_dim // 2,),
    f"tensor {_ROPE!r} has shape {list(entry.shape)}; it must be [{head_dim // 2}].",
  )
  divisors = _read(header, _ROPE)
  scaled = RopeConfig(plain.theta, "llama3", _shortest(max(divisors.max(), 1.0)), 8192)
  wanted = frequencies(plain, head_dim) / frequencies(scaled, head_dim)
  require(
    np.allclose(divisors, wanted, rtol=1e-5),
    f"tensor {_ROPE!r} of {header.path} is not Llama 3's rope scaling; no other is supported.",
  )
  return scaled


def _table(config: ModelConfig) -> dict[str, names.Tensor]:
  """The map from a GGUF name to the place of the tensor in our leaves."""
  found = {}
  for tensor in names.tensors(config):
    if not tensor.copy:
      layer, _, rest = tensor.name.removeprefix("model.layers.").partition(".")
      found[_TOP.get(tensor.name) or f"blk.{layer}.{_LAYER[rest]}"] = tensor
  return found


def _check_tensors(
  header: Header, table: dict[str, names.Tensor], shapes: dict[names.Path, tuple[int, ...]]
) -> None:
  """Refuses missing, surplus and misshapen tensors."""
  for name in header.tensors:
    known = name in table or name == _ROPE
    require(known, f"{header.path} has a tensor {name!r}, which a Llama does not have.")
  for name, tensor in table.items():
    require(name in header.tensors, f"{header.path} has no tensor {name!r}.")
    found, shape = header.tensors[name].shape, tensor.shape(shapes)
    require(
      found == shape,
      f"tensor {name!r} of {header.path} has shape {list(found)}; its metadata make it "
      f"{list(shape)}.",
    )


def _halves(array: np.ndarray, config: ModelConfig) -> np.ndarray:
  """Rows of the query or key projection, per head from adjacent pairs to halves."""
  assert isinstance(config.attention, GQAConfig)
  pairs = array.reshape(-1, config.attention.head_dim // 2, 2, array.shape[-1])
  return pairs.swapaxes(1, 2).reshape(array.shape)


def _read(header: Header, name: str) -> np.ndarray:
  """A tensor of the file in float32; ConfigError if of an unknown type or not finite."""
  from gguf import dequantize

  entry = header.tensors[name]
  stored = np.memmap(header.path, np.uint8, "r", entry.start, (entry.size,))
  rows = stored.reshape(*entry.shape[:-1], -1)
  try:
    array = dequantize(rows, entry.kind).reshape(entry.shape)
  except NotImplementedError as error:
    raise ConfigError(
      f"tensor {name!r} of {header.path} is of type {entry.kind.name}, which gguf cannot decode."
    ) from error
  finite = bool(np.isfinite(array).all())
  require(finite, f"tensor {name!r} of {header.path} has a number that is not finite.")
  return array
