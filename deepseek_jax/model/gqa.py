"""Grouped-query attention of the dense students (Qwen2, Qwen3, Llama 3)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepseek_jax.config import GQAConfig, RopeConfig
from deepseek_jax.model.cache import write
from deepseek_jax.model.layers import multiplied, norm_scale, rms_norm
from deepseek_jax.ops.attention import attend
from deepseek_jax.ops.linear import from_heads, to_heads
from deepseek_jax.ops.precision import PLAIN, Precision
from deepseek_jax.ops.rope import rotate, softmax_scale
from deepseek_jax.types import Span


class GQA(nn.Module):
  """Attention in which `heads / kv_heads` query heads share a key/value head."""

  d_model: int
  heads: int
  config: GQAConfig
  rope: RopeConfig
  norm_eps: float
  std: float
  block: int
  precision: Precision = PLAIN
  devices: tuple[int, int] = (1, 1)  # over which jit splits rows and heads
  mesh: jax.sharding.Mesh | None = None

  @nn.compact
  def __call__(
    self, x_BTD, rotation: tuple[jax.Array, jax.Array], queries: Span, keys: Span, cache, index
  ):
    """Returns the output [B, T, D] and the layer's cache with the tokens in it, if there is one."""
    c, D = self.config, self.d_model
    q_BTHK = self._project(x_BTD, "q_DHK", "q_bias_HK", self.heads)
    k_BSGK = self._project(x_BTD, "k_DGK", "k_bias_GK", c.kv_heads)
    v_BSGK = self._project(x_BTD, "v_DGK", "v_bias_GK", c.kv_heads)
    if c.qk_norm:
      q_BTHK = rms_norm(q_BTHK, norm_scale(self, "q_norm_K", c.head_dim), self.norm_eps)
      k_BSGK = rms_norm(k_BSGK, norm_scale(self, "k_norm_K", c.head_dim), self.norm_eps)
    q_BTHK = rotate(q_BTHK, *rotation, interleaved=False)
    k_BSGK = rotate(k_BSGK, *rotation, interleaved=False)
    if cache is not None:
      new = {"k_BGKS": jnp.moveaxis(k_BSGK, 1, 3), "v_BGSU": jnp.swapaxes(v_BSGK, 1, 2)}
      cache = write(cache, new, index)
      k_BSGK = jnp.moveaxis(cache["k_BGKS"].astype(x_BTD.dtype), 3, 1)
      v_BSGK = jnp.swapaxes(cache["v_BGSU"].astype(x_BTD.dtype), 1, 2)
    scale = softmax_scale(self.rope, c.head_dim)
    out_BTHK = attend(q_BTHK, k_BSGK, v_BSGK, queries, keys, scale, self.block, self.devices)
    return multiplied(self, from_heads, out_BTHK, out_HKD=(self.heads, c.head_dim, D)), cache

  def _project(self, x_BTD: jax.Array, name: str, bias: str, heads: int) -> jax.Array:
    """One of the three projections, [B, T, heads, K]."""
    c = self.config
    out = multiplied(self, to_heads, x_BTD, **{name: (self.d_model, heads, c.head_dim)})
    if c.qkv_bias:
      shape = (heads, c.head_dim)
      out = out + self.param(bias, nn.initializers.zeros, shape, jnp.float32).astype(x_BTD.dtype)
    return out
