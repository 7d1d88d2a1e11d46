"""Multi-head latent attention (2405.04434, section 2.1), expanded and absorbed.

The papers' equations omit the norms on the two latents; the released code and checkpoints have
them, and so do we. What is cached is the normed latent and the rotated shared key.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepseek_jax.config import MLAConfig, RopeConfig
from deepseek_jax.model.cache import write
from deepseek_jax.model.layers import matrix, norm_scale, rms_norm
from deepseek_jax.ops.attention import attend
from deepseek_jax.ops.linear import from_heads, linear, to_heads
from deepseek_jax.ops.rope import rotate, softmax_scale
from deepseek_jax.types import Span


class MLA(nn.Module):
  """Attention whose keys and values are read from one low-rank latent per token."""

  d_model: int
  heads: int
  config: MLAConfig
  rope: RopeConfig
  norm_eps: float
  std: float
  block: int

  @nn.compact
  def __call__(
    self,
    x_BTD,
    rotation: tuple[jax.Array, jax.Array],
    queries: Span,
    keys: Span,
    cache,
    index,
    absorbed: bool,
  ):
    """Returns the output [B, T, D] and what the tokens add to the cache (None without one)."""
    c = self.config
    q_nope_BTHK, q_rope_BTHR = self._queries(x_BTD, rotation)
    latent_BSC, rope_BSR = self._latent(x_BTD, rotation)
    if cache is not None:
      past, cache = cache, {"latent_LBSC": latent_BSC, "rope_LBSR": rope_BSR}
      latent_BSC = write(past["latent_LBSC"], latent_BSC, index, 1)
      rope_BSR = write(past["rope_LBSR"], rope_BSR, index, 1)
      latent_BSC, rope_BSR = latent_BSC.astype(x_BTD.dtype), rope_BSR.astype(x_BTD.dtype)
    k_up_CHK = self._matrix("k_up_CHK", (c.kv_latent, self.heads, c.nope_dim), x_BTD)
    v_up_CHU = self._matrix("v_up_CHU", (c.kv_latent, self.heads, c.v_dim), x_BTD)
    scale = softmax_scale(self.rope, c.nope_dim + c.rope_dim)
    if absorbed:
      q_BTHC = jnp.einsum("bthk,chk->bthc", q_nope_BTHK, k_up_CHK)
      q = jnp.concatenate([q_BTHC, q_rope_BTHR], axis=-1)
      k = jnp.concatenate([latent_BSC, rope_BSR], axis=-1)[:, :, None]
      mixed_BTHC = attend(q, k, latent_BSC[:, :, None], queries, keys, scale, self.block)
      out_BTHU = jnp.einsum("bthc,chu->bthu", mixed_BTHC, v_up_CHU)
    else:
      q = jnp.concatenate([q_nope_BTHK, q_rope_BTHR], axis=-1)
      k_nope = to_heads(latent_BSC, k_up_CHK)
      k_rope = jnp.broadcast_to(rope_BSR[:, :, None], (*k_nope.shape[:3], c.rope_dim))
      v_BSHU = to_heads(latent_BSC, v_up_CHU)
      k = jnp.concatenate([k_nope, k_rope], axis=-1)
      out_BTHU = attend(q, k, v_BSHU, queries, keys, scale, self.block)
    out_HUD = self._matrix("out_HUD", (self.heads, c.v_dim, self.d_model), x_BTD)
    return from_heads(out_BTHU, out_HUD), cache

  def _matrix(self, name: str, shape: tuple[int, ...], x: jax.Array) -> jax.Array:
    return matrix(self, name, shape, self.std).astype(x.dtype)

  def _queries(
    self, x_BTD: jax.Array, rotation: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    """The heads' position-free and rotated queries."""
    c, D, H = self.config, self.d_model, self.heads
    if c.q_latent is None:
      up = self._matrix("q_up_DHK", (D, H, c.nope_dim), x_BTD)
      rope = self._matrix("q_rope_DHR", (D, H, c.rope_dim), x_BTD)
      source = x_BTD
    else:
      latent_BTQ = linear(x_BTD, self._matrix("q_down_DQ", (D, c.q_latent), x_BTD))
      source = rms_norm(latent_BTQ, norm_scale(self, "q_norm_Q", c.q_latent), self.norm_eps)
      up = self._matrix("q_up_QHK", (c.q_latent, H, c.nope_dim), x_BTD)
      rope = self._matrix("q_rope_QHR", (c.q_latent, H, c.rope_dim), x_BTD)
    q_rope_BTHR = rotate(to_heads(source, rope), *rotation, interleaved=True)
    return to_heads(source, up), q_rope_BTHR

  def _latent(
    self, x_BTD: jax.Array, rotation: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    """The normed key/value latent and the rotated key that all heads share."""
    c, D = self.config, self.d_model
    latent_BTC = linear(x_BTD, self._matrix("kv_down_DC", (D, c.kv_latent), x_BTD))
    latent_BTC = rms_norm(latent_BTC, norm_scale(self, "kv_norm_C", c.kv_latent), self.norm_eps)
    rope_BTR = linear(x_BTD, self._matrix("k_rope_DR", (D, c.rope_dim), x_BTD))
    return latent_BTC, rotate(rope_BTR[:, :, None], *rotation, interleaved=True)[:, :, 0]
