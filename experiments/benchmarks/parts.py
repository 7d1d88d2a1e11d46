"""What a training step spends its time on: its parts alone, each forward and backward.

A part is compiled by itself and timed on the step's own shapes, then multiplied by how often a step
has it. What the parts leave of the whole step is "rest": norms, residuals, embedding, the dense
layer, and moving layers in and out of the scan's stacks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deepseek_jax.config import MLAConfig, ModelConfig
from deepseek_jax.model.mla import MLA
from deepseek_jax.model.moe import MoE
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.ops.rope import angles
from deepseek_jax.train.losses import cross_entropy
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.state import apply_gradients, compile_step, init_state
from deepseek_jax.types import Span
from experiments.benchmarks.timing import stopwatch


@dataclasses.dataclass(frozen=True)
class Part:
  """A piece of the step, and how often it is in one."""

  run: Callable[[], Any]
  times: int

  def seconds(self) -> float:
    """Of all its occurrences in a step."""
    return self.times * stopwatch(self.run)


def parts(config: ModelConfig, batch: int, length: int) -> dict[str, Part]:
  """Attention, experts, head and optimiser of an MLA model with experts; each already compiled."""
  model = Transformer(dataclasses.replace(config, mtp_depth=0))
  key = jax.random.key(0)
  weights = jax.jit(lambda: init_weights(model, key))()
  layer = jax.tree.map(lambda p: p[0], weights.params["moe"])
  x_BTD = jax.random.normal(key, (batch, length, config.d_model))
  found = {
    "attention": Part(_attention(config, layer["attention"], x_BTD), config.layers),
    "experts": Part(_experts(config, layer["ffn"], x_BTD), config.expert_layers),
    "head": Part(_head(weights.params["head_DV"], x_BTD), 1),
    "optimizer": Part(_optimizer(model, weights), 1),
  }
  for part in found.values():
    jax.block_until_ready(part.run())
  return found


def _forward_backward(apply: Callable[[Any, jax.Array], jax.Array], params: Any, x: jax.Array):
  """A jitted pass there and back through `apply`, for parameters and input."""

  @jax.jit
  def both(params, x, dy):
    return jax.vjp(apply, params, x)[1](dy)

  return lambda: both(params, x, x)


def _attention(config: ModelConfig, params: Any, x_BTD: jax.Array) -> Callable[[], Any]:
  attention = config.attention
  assert isinstance(attention, MLAConfig)
  module = MLA(config.d_model, config.heads, attention, config.rope, config.std, 1024)
  positions = jnp.broadcast_to(jnp.arange(x_BTD.shape[1]), x_BTD.shape[:2])
  span = Span(positions, jnp.ones_like(positions))

  def apply(params, x_BTD):
    rotation = angles(config.rope, attention.rope_dim, positions)
    return module.apply({"params": params}, x_BTD, rotation, span, span, None, None, False)[0]

  return _forward_backward(apply, params, x_BTD)


def _experts(config: ModelConfig, params: Any, x_BTD: jax.Array) -> Callable[[], Any]:
  """Router, routed and shared experts."""
  assert config.moe is not None
  module = MoE(config.d_model, config.moe, config.std, "auto", None)
  bias_E, segments_BT = jnp.zeros(config.moe.experts), jnp.ones(x_BTD.shape[:2], jnp.int32)

  def apply(params, x_BTD):
    return module.apply({"params": params}, x_BTD, segments_BT, bias_E)[0]

  return _forward_backward(apply, params, x_BTD)


def _head(head_DV: jax.Array, x_BTD: jax.Array) -> Callable[[], Any]:
  """Output projection and cross-entropy."""
  x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
  targets_N = jnp.arange(x_ND.shape[0]) % head_DV.shape[1]
  weights_N = jnp.full(x_ND.shape[0], 1 / x_ND.shape[0])
  run = jax.jit(jax.grad(cross_entropy, argnums=(0, 1)))
  return lambda: run(x_ND, head_DV, targets_N, weights_N)


def _optimizer(model: Transformer, weights: Any) -> Callable[[], Any]:
  """Clipping, AdamW and the bias step."""
  tx = make_optimizer(OptimizerConfig())
  state = jax.jit(lambda w: init_state(w, tx))(weights)
  gradients = jax.tree.map(lambda p: 1e-3 * p, weights.params)
  load_LE = jnp.ones_like(weights.router_bias_LE)

  def update(state, gradients):
    return apply_gradients(state, gradients, load_LE, tx, 1e-3, 1e-3)

  step = compile_step(update, None)

  def run():
    nonlocal state
    state, _ = step(state, gradients)
    return state

  return run
