"""Normalisation, the dense feed-forward, and how a parameter is initialised."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepseek_jax.ops.feed_forward import feed_forward
from deepseek_jax.ops.low_rank import LowRank
from deepseek_jax.ops.oriented import Oriented
from deepseek_jax.ops.precision import PLAIN, Precision


def matrix(module: nn.Module, name: str, shape: tuple[int, ...], std: float) -> Any:
  """A float32 parameter of `module`; its name ends in its axes.

  Its initialiser says the deviation only: `init_weights` draws all parameters at once.
  """
  if module.has_variable("params", name):
    held: Any = module.get_variable("params", name)
    if isinstance(held, Oriented | LowRank):  # which Flax would refuse for their shapes
      return held
  return module.param(name, nn.initializers.constant(std), shape, jnp.float32)


def rms_norm(x: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
  """Root-mean-square normalisation over the last axis, in float32, then the scale."""
  x32 = x.astype(jnp.float32)
  x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
  return (x32 * scale_D).astype(x.dtype)


def norm_scale(module: nn.Module, name: str, width: int) -> jax.Array:
  """The scale of an RMSNorm, initially one."""
  return module.param(name, nn.initializers.ones, (width,), jnp.float32)


class FeedForward(nn.Module):
  """SwiGLU: down(silu(gate x) * up x)."""

  d_model: int
  width: int
  std: float
  precision: Precision = PLAIN

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    D, F = self.d_model, self.width
    gate_DF, up_DF, down_FD = (
      self.precision.operand(matrix(self, name, shape, self.std), x_BTD.dtype)
      for name, shape in (("gate_DF", (D, F)), ("up_DF", (D, F)), ("down_FD", (F, D)))
    )
    return feed_forward(x_BTD, gate_DF, up_DF, down_FD, self.precision)
