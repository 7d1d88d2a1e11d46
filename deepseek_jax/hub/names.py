"""Tensor names: the one map between our parameter tree and Hugging Face checkpoints, both ways.

A table row is a checkpoint tensor and the leaves of ours it is made of, each with the order in
which the checkpoint keeps the leaf's axes. `"attention.q_up_QHK": "HK Q"` reads: take the leaf with
axes Q, H, K in the order H, K, Q, and flatten H and K into the rows. Where several leaves share a
tensor they are joined on the last axis of the first group, so that `q_b_proj` holds per head K
rows without position and then R rotary ones, and `kv_b_proj` per head K key rows and U value rows.

Layer L + k of a checkpoint of L layers is MTP module k. It comes with its own copies of embedding
and head, which share our leaves: they are written, and compared when read. Names follow the
released DeepSeek-V2, V3 and R1 files and transformers' Qwen2, Qwen3 and Llama.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from deepseek_jax.config import GQAConfig, MLAConfig, ModelConfig

Path = tuple[str, ...]  # of a leaf: ("params", "moe", "ffn", "router_DE") or ("router_bias_LE",)
Table = dict[str, dict[str, str]]  # checkpoint name: {leaf: layout}

_TOP: Table = {
  "model.embed_tokens.weight": {"embed_VD": "V D"},
  "model.norm.weight": {"norm_D": "D"},
}
_HEAD: Table = {"lm_head.weight": {"head_DV": "V D"}}

_NORMS: Table = {
  "input_layernorm.weight": {"attention_norm_D": "D"},
  "post_attention_layernorm.weight": {"ffn_norm_D": "D"},
}
_MLA: Table = {
  "self_attn.kv_a_proj_with_mqa.weight": {
    "attention.kv_down_DC": "C D",
    "attention.k_rope_DR": "R D",
  },
  "self_attn.kv_a_layernorm.weight": {"attention.kv_norm_C": "C"},
  "self_attn.kv_b_proj.weight": {"attention.k_up_CHK": "HK C", "attention.v_up_CHU": "HU C"},
  "self_attn.o_proj.weight": {"attention.out_HUD": "D HU"},
}
_QUERY_LATENT: Table = {
  "self_attn.q_a_proj.weight": {"attention.q_down_DQ": "Q D"},
  "self_attn.q_a_layernorm.weight": {"attention.q_norm_Q": "Q"},
  "self_attn.q_b_proj.weight": {"attention.q_up_QHK": "HK Q", "attention.q_rope_QHR": "HR Q"},
}
_QUERY_DIRECT: Table = {
  "self_attn.q_proj.weight": {"attention.q_up_DHK": "HK D", "attention.q_rope_DHR": "HR D"},
}
_GQA: Table = {
  "self_attn.q_proj.weight": {"attention.q_DHK": "HK D"},
  "self_attn.k_proj.weight": {"attention.k_DGK": "GK D"},
  "self_attn.v_proj.weight": {"attention.v_DGK": "GK D"},
  "self_attn.o_proj.weight": {"attention.out_HKD": "D HK"},
}
_GQA_BIAS: Table = {
  "self_attn.q_proj.bias": {"attention.q_bias_HK": "HK"},
  "self_attn.k_proj.bias": {"attention.k_bias_GK": "GK"},
  "self_attn.v_proj.bias": {"attention.v_bias_GK": "GK"},
}
_GQA_NORMS: Table = {
  "self_attn.q_norm.weight": {"attention.q_norm_K": "K"},
  "self_attn.k_norm.weight": {"attention.k_norm_K": "K"},
}
_DENSE: Table = {
  "mlp.gate_proj.weight": {"ffn.gate_DF": "F D"},
  "mlp.up_proj.weight": {"ffn.up_DF": "F D"},
  "mlp.down_proj.weight": {"ffn.down_FD": "D F"},
}
_ROUTER: Table = {"mlp.gate.weight": {"ffn.router_DE": "E D"}}
_EXPERT: Table = {  # one row per expert; a layout without E is of one entry of that axis
  "mlp.experts.{expert}.gate_proj.weight": {"ffn.gate_EDF": "F D"},
  "mlp.experts.{expert}.up_proj.weight": {"ffn.up_EDF": "F D"},
  "mlp.experts.{expert}.down_proj.weight": {"ffn.down_EFD": "D F"},
}
_SHARED: Table = {
  "mlp.shared_experts.gate_proj.weight": {"ffn.shared.gate_DF": "F D"},
  "mlp.shared_experts.up_proj.weight": {"ffn.shared.up_DF": "F D"},
  "mlp.shared_experts.down_proj.weight": {"ffn.shared.down_FD": "D F"},
}
_ROUTER_BIAS = "mlp.gate.e_score_correction_bias"  # a row of router_bias_LE, always float32
_MTP: Table = {
  "enorm.weight": {"embed_norm_D": "D"},
  "hnorm.weight": {"hidden_norm_D": "D"},
  "eh_proj.weight": {"merge_WD": "D W"},
  "shared_head.norm.weight": {"norm_D": "D"},
}
_MTP_EMBED, _MTP_HEAD = "embed_tokens.weight", "shared_head.head.weight"


@dataclasses.dataclass(frozen=True)
class Piece:
  """A leaf of ours, or the part of it at `index` on its stacked axes, inside a tensor."""

  path: Path
  index: tuple[int, ...]
  layout: str  # the leaf's axes as the checkpoint has them; a blank parts rows from columns

  @property
  def axes(self) -> str:
    """The axes of the part, in our order: those of the leaf's name that the layout mentions."""
    return "".join(a for a in self.path[-1].rpartition("_")[2] if a in self.layout)

  @property
  def order(self) -> list[int]:
    """Our axes in the checkpoint's order."""
    return [self.axes.index(a) for a in self.layout.replace(" ", "")]

  def shape(self, shapes: Mapping[Path, tuple[int, ...]]) -> list[int]:
    """Sizes in the checkpoint's order, not yet flattened."""
    part = shapes[self.path][len(self.index) :]
    return [part[i] for i in self.order]


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a checkpoint."""

  name: str
  pieces: tuple[Piece, ...]
  float32: bool = False  # kept in float32 whatever the checkpoint's dtype
  blocks: bool = False  # kept in FP8 blocks where the checkpoint is FP8: see `hub.blocks`
  copy: bool = False  # of leaves that another tensor holds: compared when read, may be absent
  written: bool = True

  @property
  def join(self) -> int:
    """The axis, not yet flattened, on which pieces are joined."""
    return len(self.pieces[0].layout.split()[0]) - 1

  def unflattened(self, shapes: Mapping[Path, tuple[int, ...]]) -> list[int]:
    """The joined shape before rows and columns are flattened."""
    shape = self.pieces[0].shape(shapes)
    shape[self.join] = sum(piece.shape(shapes)[self.join] for piece in self.pieces)
    return shape

  def shape(self, shapes: Mapping[Path, tuple[int, ...]]) -> tuple[int, ...]:
    """The tensor's shape in a checkpoint, given the shapes of our leaves."""
    sizes = iter(self.unflattened(shapes))
    groups = self.pieces[0].layout.split()
    return tuple(int(np.prod([next(sizes) for _ in group])) for group in groups)

  def whole(self, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The tensor, from the part of each piece with its axes in our order."""
    laid = [part.transpose(p.order) for p, part in zip(self.pieces, parts, strict=True)]
    joined = laid[0] if len(laid) == 1 else np.concatenate(laid, axis=self.join)
    sizes = iter(joined.shape)
    groups = self.pieces[0].layout.split()
    return joined.reshape([math.prod(next(sizes) for _ in group) for group in groups])

  def parts(self, array: np.ndarray, shapes: Mapping[Path, tuple[int, ...]]) -> list[np.ndarray]:
    """The inverse of `whole`, given the shapes of our leaves; the parts are views of `array`."""
    ends = np.cumsum([piece.shape(shapes)[self.join] for piece in self.pieces])
    split = np.split(array.reshape(self.unflattened(shapes)), ends[:-1], axis=self.join)
    laid = zip(self.pieces, split, strict=True)
    return [part.transpose(np.argsort(piece.order)) for piece, part in laid]

  def encode(self, leaves: Mapping[Path, np.ndarray]) -> np.ndarray:
    """The tensor, from our leaves."""
    return self.whole([leaves[piece.path][piece.index] for piece in self.pieces])

  def decode(self, array: np.ndarray, leaves: Mapping[Path, np.ndarray]) -> None:
    """Writes the tensor into our leaves, the inverse of `encode`."""
    parts = self.parts(array, {p.path: leaves[p.path].shape for p in self.pieces})
    for piece, part in zip(self.pieces, parts, strict=True):
      leaves[piece.path][piece.index] = part


def tensors(config: ModelConfig) -> Iterator[Tensor]:
  """Every tensor of a checkpoint of this architecture, in the order of the layers."""
  yield from _rows(_TOP, "", ("params",), ())
  yield from _rows({} if config.tied else _HEAD, "", ("params",), ())
  if config.tied:
    yield _head_copy(config, "lm_head.weight", written=False)
  for layer in range(config.layers):
    experts = layer >= config.dense_layers
    row = layer - config.dense_layers if experts else layer
    stack = ("params", "moe" if experts else "dense")
    yield from _block(config, experts, f"model.layers.{layer}.", stack, (row,), row)
  for depth in range(config.mtp_depth):
    yield from _mtp_module(config, depth)


def _mtp_module(config: ModelConfig, depth: int) -> Iterator[Tensor]:
  """The tensors of one MTP module, with its copies of embedding and head."""
  prefix, path = f"model.layers.{config.layers + depth}.", ("params", f"mtp_{depth}")
  yield Tensor(prefix + _MTP_EMBED, (Piece(("params", "embed_VD"), (), "V D"),), copy=True)
  yield from _rows(_MTP, prefix, path, ())
  row = config.expert_layers + depth
  yield from _block(config, config.moe is not None, prefix, (*path, "block"), (), row)
  yield _head_copy(config, prefix + _MTP_HEAD, written=True)


def _head_copy(config: ModelConfig, name: str, written: bool) -> Tensor:
  """A further copy of the output head under `name`."""
  leaf = "embed_VD" if config.tied else "head_DV"
  return Tensor(name, (Piece(("params", leaf), (), "V D"),), copy=True, written=written)


def _block(
  config: ModelConfig, experts: bool, prefix: str, path: Path, index: tuple[int, ...], row: int
) -> Iterator[Tensor]:
  """The tensors of one layer, whose leaves are at `index` of those under `path`."""
  latent = isinstance(config.attention, MLAConfig)  # only DeepSeek publishes FP8 blocks
  rows = functools.partial(_rows, prefix=prefix, path=path, index=index, blocks=latent)
  yield from rows(_NORMS | _attention(config.attention))
  if not experts:
    yield from rows(_DENSE)
    return
  assert config.moe is not None
  yield from _rows(_ROUTER, prefix, path, index)
  if config.moe.scoring == "sigmoid":
    bias = Piece(("router_bias_LE",), (row,), "E")
    yield Tensor(prefix + _ROUTER_BIAS, (bias,), float32=True)
  for expert in range(config.moe.experts):
    named = {name.format(expert=expert): leaves for name, leaves in _EXPERT.items()}
    yield from rows(named, index=(*index, expert))
  yield from rows(_SHARED if config.moe.shared else {})


def _attention(attention: MLAConfig | GQAConfig) -> Table:
  """The attention's table, which is what tells one architecture from another."""
  if isinstance(attention, MLAConfig):
    return (_QUERY_DIRECT if attention.q_latent is None else _QUERY_LATENT) | _MLA
  biases = _GQA_BIAS if attention.qkv_bias else {}
  return _GQA | biases | (_GQA_NORMS if attention.qk_norm else {})


def _rows(
  table: Table, prefix: str, path: Path, index: tuple[int, ...], blocks: bool = False
) -> Iterator[Tensor]:
  """The tensors of a table whose leaves are at `index` of those under `path`.

  With `blocks` its matrices are those that an FP8 checkpoint keeps in blocks.
  """
  for name, leaves in table.items():
    pieces = tuple(Piece((*path, *leaf.split(".")), index, lay) for leaf, lay in leaves.items())
    yield Tensor(prefix + name, pieces, blocks=blocks and " " in pieces[0].layout)


def flatten(weights: Any) -> dict[Path, Any]:
  """Our leaves by path, from Weights (of arrays, or of shapes)."""

  def walk(path: Path, node: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, Mapping):
      return itertools.chain.from_iterable(walk((*path, k), v) for k, v in node.items())
    return iter([(path, node)])

  return dict(
    itertools.chain(
      walk(("params",), weights.params), [(("router_bias_LE",), weights.router_bias_LE)]
    )
  )


def unflatten(leaves: Mapping[Path, Any]) -> tuple[dict[str, Any], Any]:
  """Parameters and router bias, the inverse of `flatten`."""
  params: dict[str, Any] = {}
  for path, leaf in leaves.items():
    if path[0] != "params":
      continue
    node = params
    for key in path[1:-1]:
      node = node.setdefault(key, {})
    node[path[-1]] = leaf
  return params, leaves[("router_bias_LE",)]
