"""Parameters and floating-point operations of a model, counted from its shapes."""

import math

import jax

from deepseek_jax.config import MLAConfig, ModelConfig
from deepseek_jax.model.transformer import Transformer, init_weights

_NOT_MULTIPLIED = ("embed_VD",)  # looked up, not multiplied with


def _shapes(config: ModelConfig) -> dict[str, int]:
  """Size of every parameter by its path, without allocating any."""
  model = Transformer(config)
  weights = jax.eval_shape(lambda: init_weights(model, jax.random.key(0)))
  leaves = jax.tree_util.tree_leaves_with_path(weights.params)
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


def active_parameters(config: ModelConfig, mtp: bool = False) -> int:
  """Parameters a token is multiplied with: its chosen experts and the head, not the embedding.

  With `mtp`, the MTP modules and their passes through the shared head are added.
  """
  total = 0
  for path, size in _shapes(config).items():
    if path in _NOT_MULTIPLIED or (path.startswith("mtp_") and not mtp):
      continue
    if path.endswith(("_EDF", "_EFD")):
      assert config.moe is not None
      size = size * config.moe.top_k // config.moe.experts
    total += size
  head = config.vocab * config.d_model
  if config.tied:
    total += head
  return total + (config.mtp_depth * head if mtp else 0)


def forward_flops(config: ModelConfig, context: float, mtp: bool = False) -> float:
  """Floating-point operations of one token's forward pass when it sees `context` keys on average.

  Two per active parameter, and two per multiply-add of attention scores and values.
  """
  attention = config.attention
  if isinstance(attention, MLAConfig):
    width = attention.nope_dim + attention.rope_dim + attention.v_dim
  else:
    width = 2 * attention.head_dim
  layers = config.layers + (config.mtp_depth if mtp else 0)
  return 2.0 * active_parameters(config, mtp) + 2.0 * layers * config.heads * width * context


def train_flops(config: ModelConfig, context: float, mtp: bool = False) -> float:
  """Forward and backward operations of one token: three forward passes."""
  return 3.0 * forward_flops(config, context, mtp)
