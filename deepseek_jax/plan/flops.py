"""Parameters and floating-point operations of a model, counted from its shapes."""

import functools
import math
from collections.abc import Iterator

import jax

from deepseek_jax.config import MLAConfig, ModelConfig
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.types import Weights

_NOT_MULTIPLIED = ("embed_VD",)  # looked up, not multiplied with


@functools.lru_cache(maxsize=32)
def abstract_weights(config: ModelConfig) -> Weights:
  """Shapes and dtypes of a model's weights, none of which is allocated."""
  return jax.eval_shape(lambda: init_weights(Transformer(config), jax.random.key(0)))


@functools.lru_cache(maxsize=32)
def _shapes(config: ModelConfig) -> dict[str, int]:
  """Size of every parameter by its path."""
  leaves = jax.tree_util.tree_leaves_with_path(abstract_weights(config).params)
  return {"/".join(key.key for key in path): math.prod(leaf.shape) for path, leaf in leaves}


def parameters(config: ModelConfig, mtp: bool = False) -> int:
  """Parameters as published counts have them: with router biases, MTP modules only if `mtp`.

  An MTP module's copies of embedding and head are not counted; they are shared.
  """
  sizes = _shapes(config)
  total = sum(n for path, n in sizes.items() if mtp or not path.startswith("mtp_"))
  if config.moe is not None and config.moe.selection_bias:
    total += config.moe.experts * (config.router_rows if mtp else config.expert_layers)
  return total


def _multiplied(config: ModelConfig, mtp: bool) -> Iterator[tuple[str, int]]:
  """What a token is multiplied with of every parameter, by its path."""
  for path, size in _shapes(config).items():
    if path in _NOT_MULTIPLIED or (path.startswith("mtp_") and not mtp):
      continue
    if path.endswith(("_EDF", "_EFD")):
      assert config.moe is not None
      size = size * config.moe.top_k // config.moe.experts
    yield path, size


def active_parameters(config: ModelConfig, mtp: bool = False) -> int:
  """Parameters a token is multiplied with: its chosen experts and the head, not the embedding.

  With `mtp`, the MTP modules and their passes through the shared head are added.
  """
  total = sum(size for _, size in _multiplied(config, mtp))
  head = config.vocab * config.d_model
  if config.tied:
    total += head
  return total + (config.mtp_depth * head if mtp else 0)


def forward_flops(config: ModelConfig, context: float, mtp: bool = False) -> float:
  """Floating-point operations of one token's forward pass when it sees `context` keys on average.

  Two per active parameter, and two per multiply-add of attention scores and values.
  """
  return sum(flops_by_part(config, context, mtp).values())


def flops_by_part(
  config: ModelConfig, context: float, mtp: bool = False, absorbed: bool = False
) -> dict[str, float]:
  """`forward_flops` by the parts of a model, of which it is the sum; in the order of PARTS.

  Absorbed MLA, in which decoding reads its cache, scores and adds up latents (2405.04434, 2.1).
  """
  parts = dict.fromkeys(PARTS, 0.0)
  for path, size in _multiplied(config, mtp):
    parts[part_of(path)] += 2.0 * size
  head = 2.0 * config.vocab * config.d_model
  core = 2.0 * config.heads * _core_width(config, absorbed) * context
  parts["head"] += head * config.tied
  parts["attention core"] += core * config.layers
  if mtp:
    parts["MTP"] += config.mtp_depth * (head + core)
  return {name: count for name, count in parts.items() if count}


PARTS = (
  "attention projections", "attention core", "dense feed-forward", "routed experts",
  "shared experts", "router", "head", "MTP", "norms",
)  # fmt: skip


def part_of(path: str) -> str:
  """The part of a model that a parameter belongs to, by its path."""
  if path.startswith("mtp_"):
    return "MTP"
  if "/attention/" in path and "norm" not in path:
    return "attention projections"
  if path.endswith(("_EDF", "_EFD")):
    return "routed experts"
  for part, place in (("shared experts", "/shared/"), ("router", "/router_"), ("head", "head_DV")):
    if place in path:
      return part
  return "dense feed-forward" if "/ffn/" in path else "norms"


def _core_width(config: ModelConfig, absorbed: bool) -> int:
  """Multiply-adds of a head's query with one key and its value."""
  attention = config.attention
  if not isinstance(attention, MLAConfig):
    return 2 * attention.head_dim
  if absorbed:
    return 2 * attention.kv_latent + attention.rope_dim
  return attention.nope_dim + attention.rope_dim + attention.v_dim


def train_flops(config: ModelConfig, context: float, mtp: bool = False) -> float:
  """Forward and backward operations of one token: three forward passes."""
  return 3.0 * forward_flops(config, context, mtp)
