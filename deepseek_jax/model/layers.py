"""Normalisation, the dense feed-forward, and how a parameter is initialised."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepseek_jax.ops.feed_forward import feed_forward
from deepseek_jax.ops.low_rank import LowRank
from deepseek_jax.ops.oriented import Oriented
from deepseek_jax.ops.precision import PLAIN, Precision
from deepseek_jax.sharding import on_own_tokens


def matrix(module: nn.Module, name: str, shape: tuple[int, ...], std: float) -> Any:
  """A float32 parameter of `module`; its name ends in its axes.

  Its initialiser says the deviation only: `init_weights` draws all parameters at once.
  """
  if module.has_variable("params", name):
    held: Any = module.get_variable("params", name)
    if isinstance(held, Oriented | LowRank):  # which Flax would refuse for their shapes
      return held
  return module.param(name, nn.initializers.constant(std), shape, jnp.float32)


def multiplied(
  module: Any, fn: Callable[..., jax.Array], x: jax.Array, **shapes: tuple[int, ...]
) -> jax.Array:
  """`fn(x, *weights, precision)` of `ops.linear` or `ops.feed_forward`, on the module's mesh.

  Args:
    module: one with `std`, `precision` and `mesh`.
    x: see `sharding.on_own_tokens`.
    shapes: the weights' names and shapes.
  """
  precision = module.precision
  weights = {
    name: precision.operand(matrix(module, name, shape, module.std), x.dtype)
    for name, shape in shapes.items()
  }
  return product_of(module, fn, x, weights)


def product_of(
  module: Any, fn: Callable[..., jax.Array], x: jax.Array, weights: dict[str, Any]
) -> jax.Array:
  """`multiplied`, of weights at hand."""
  precision = module.precision
  mesh = module.mesh if precision.plain else None  # the tiles of FP8 are of all tokens
  return on_own_tokens(mesh, functools.partial(fn, precision=precision), x, weights)


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
  mesh: jax.sharding.Mesh | None = None

  @nn.compact
  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    D, F = self.d_model, self.width
    return multiplied(self, feed_forward, x_BTD, gate_DF=(D, F), up_DF=(D, F), down_FD=(F, D))
