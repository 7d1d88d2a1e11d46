"""Weights whose layers are parameters of their own, `layer_0`, `layer_1`, ..., as decoding wants.

Training stacks equal layers and scans over them. A decoding step reads every parameter once and
does little with it, so that cutting a layer out of its stack would double the step.
"""

from typing import Any

import jax

from deepseek_jax.config import ModelConfig
from deepseek_jax.types import Weights

STACKS = ("dense", "moe")


def is_layered(weights: Weights) -> bool:
  """Whether the layers are apart already."""
  return not any(stack in weights.params for stack in STACKS)


def unstack(config: ModelConfig, weights: Weights) -> Weights:
  """The same weights with layers apart; the router bias stays one array."""
  params: dict[str, Any] = {k: v for k, v in weights.params.items() if k not in STACKS}
  for layer in range(config.layers):
    experts = layer >= config.dense_layers
    row = layer - config.dense_layers if experts else layer
    stack = weights.params["moe" if experts else "dense"]
    params[f"layer_{layer}"] = jax.tree.map(lambda x, row=row: x[row], stack)
  return Weights(params, weights.router_bias_LE)
