"""Multi-head latent attention (2405.04434, section 2.1), expanded and absorbed.

The papers' equations omit the norms on the two latents; the released code and checkpoints have
them, and so do we. What is cached is the normed latent and the rotated shared key.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepseek_jax.config import MLAConfig, RopeConfig, require
from deepseek_jax.model.cache import write
from deepseek_jax.model.layers import matrix, multiplied, norm_scale, product_of, rms_norm
from deepseek_jax.ops.attention import attend
from deepseek_jax.ops.linear import from_heads, linear, to_heads
from deepseek_jax.ops.low_rank import LowRank
from deepseek_jax.ops.precision import PLAIN, Precision
from deepseek_jax.ops.rope import rotate, softmax_scale
from deepseek_jax.ops.visibility import visible_BTS
from deepseek_jax.sharding import sharded_ring, splits_tokens
from deepseek_jax.types import Span
from pallas_kernels.mla.api import mla_decode

LATENT_EPS = 1e-6  # of both latents' norms, whatever the model's own: so it is in the released code


class MLA(nn.Module):
  """Attention whose keys and values are read from one low-rank latent per token."""

  d_model: int
  heads: int
  config: MLAConfig
  rope: RopeConfig
  std: float
  block: int
  precision: Precision = PLAIN
  devices: tuple[int, int] = (1, 1)  # over which jit splits rows and heads
  mesh: jax.sharding.Mesh | None = None

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
    """Returns the output [B, T, D] and the layer's cache with the tokens in it, if there is one."""
    c = self.config
    q_nope_BTHK, q_rope_BTHR = self._queries(x_BTD, rotation)
    latent_BSC, rope_BSR = self._latent(x_BTD, rotation)
    if cache is not None:
      kv_BSX = jnp.concatenate([latent_BSC, rope_BSR], axis=-1)
      cache = write(cache, {"kv_BSX": kv_BSX}, index)
      kv_BSX = cache["kv_BSX"].astype(x_BTD.dtype)
      latent_BSC, rope_BSR = kv_BSX[..., : c.kv_latent], kv_BSX[..., c.kv_latent :]
    elif absorbed:
      kv_BSX = jnp.concatenate([latent_BSC, rope_BSR], axis=-1)
    k_up, v_up = self._up_projections(x_BTD, heads_first=absorbed)
    scale = softmax_scale(self.rope, c.nope_dim + c.rope_dim)
    if absorbed:
      k_up_HCK, v_up_HCU = k_up.astype(x_BTD.dtype), v_up.astype(x_BTD.dtype)
      q_BTHC = jnp.einsum("bthk,hck->bthc", q_nope_BTHK, k_up_HCK)
      q_BTHX = jnp.concatenate([q_BTHC, q_rope_BTHR], axis=-1)
      mixed_BTHC = self._mix(q_BTHX, kv_BSX, queries, keys, scale)
      out_BTHU = jnp.einsum("bthc,hcu->bthu", mixed_BTHC, v_up_HCU)
    elif cache is None and splits_tokens(self.mesh, x_BTD.shape[1]):
      assert self.mesh is not None
      require(
        self.precision.plain,
        f"compute.precision is {self.precision.name}, but with mesh.context above 1 attention's "
        "up-projections are multiplied in the compute dtype; make one of them plain or 1.",
      )
      q = jnp.concatenate([q_nope_BTHK, q_rope_BTHR], axis=-1)
      kv_BSX = jnp.concatenate([latent_BSC, rope_BSR], axis=-1)
      k_up_CHK, v_up_CHU = (
        (w.merged() if isinstance(w, LowRank) else w).astype(x_BTD.dtype) for w in (k_up, v_up)
      )
      out_BTHU = sharded_ring(self.mesh, q, kv_BSX, k_up_CHK, v_up_CHU, queries, scale, self.block)
    else:
      q = jnp.concatenate([q_nope_BTHK, q_rope_BTHR], axis=-1)
      k_nope = product_of(self, to_heads, latent_BSC, {"k_up_CHK": k_up})
      k_rope = jnp.broadcast_to(rope_BSR[:, :, None], (*k_nope.shape[:3], c.rope_dim))
      v_BSHU = product_of(self, to_heads, latent_BSC, {"v_up_CHU": v_up})
      k = jnp.concatenate([k_nope, k_rope], axis=-1)
      out_BTHU = attend(q, k, v_BSHU, queries, keys, scale, self.block, self.devices)
    out = {"out_HUD": (self.heads, c.v_dim, self.d_model)}
    return multiplied(self, from_heads, out_BTHU, **out), cache

  def _mix(self, q_BTHX, kv_BSX, queries: Span, keys: Span, scale: float) -> jax.Array:
    """Absorbed attention's weighted sums of latents [B, T, H, C]."""
    C = self.config.kv_latent
    if q_BTHX.shape[1] == 1 and self.precision.kernels != "off":
      args = q_BTHX[:, 0], kv_BSX, visible_BTS(queries, keys)[:, 0]
      implementation = self.precision.implementation
      return mla_decode(*args, latent=C, scale=scale, implementation=implementation)[:, None]
    kv_BSGX = kv_BSX[:, :, None]  # one head of keys, which are the values too
    how = (queries, keys, scale, self.block, self.devices)
    mixed_BTHX = attend(q_BTHX, kv_BSGX, kv_BSGX, *how)
    return mixed_BTHX[..., :C]  # cheaper than to cut the cache

  def _matrix(self, name: str, shape: tuple[int, ...], x: jax.Array) -> jax.Array:
    return self.precision.operand(matrix(self, name, shape, self.std), x.dtype)

  def _up_projections(self, x_BTD: jax.Array, heads_first: bool) -> tuple[Any, Any]:
    """From the latent to the heads' keys [C, H, K] and values [C, H, U], or with their heads first.

    Absorbed, they are a product per head, and wanted with heads first: weights prepared for
    decoding hold them so (`decode.weights`), others are transposed here.
    """
    c, H = self.config, self.heads
    C, held_so = c.kv_latent, self.has_variable("params", "k_up_HCK")
    if held_so:
      k_up = self._matrix("k_up_HCK", (H, C, c.nope_dim), x_BTD)
      v_up = self._matrix("v_up_HCU", (H, C, c.v_dim), x_BTD)
    else:
      k_up = self._matrix("k_up_CHK", (C, H, c.nope_dim), x_BTD)
      v_up = self._matrix("v_up_CHU", (C, H, c.v_dim), x_BTD)
    if held_so == heads_first:
      return k_up, v_up
    k_up, v_up = (w.merged() if isinstance(w, LowRank) else w for w in (k_up, v_up))
    return jnp.swapaxes(k_up, 0, 1), jnp.swapaxes(v_up, 0, 1)

  def _queries(
    self, x_BTD: jax.Array, rotation: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    """The heads' position-free and rotated queries."""
    c, D, H = self.config, self.d_model, self.heads
    source, letter = x_BTD, "D"
    if c.q_latent is not None:
      latent_BTQ = multiplied(self, linear, x_BTD, q_down_DQ=(D, c.q_latent))
      source = rms_norm(latent_BTQ, norm_scale(self, "q_norm_Q", c.q_latent), LATENT_EPS)
      letter = "Q"
    size = source.shape[-1]
    up = {f"q_up_{letter}HK": (size, H, c.nope_dim)}
    rope = {f"q_rope_{letter}HR": (size, H, c.rope_dim)}
    q_rope_BTHR = multiplied(self, to_heads, source, **rope)
    q_nope_BTHK = multiplied(self, to_heads, source, **up)
    return q_nope_BTHK, rotate(q_rope_BTHR, *rotation, interleaved=True)

  def _latent(
    self, x_BTD: jax.Array, rotation: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    """The normed key/value latent and the rotated key that all heads share."""
    c, D = self.config, self.d_model
    latent_BTC = multiplied(self, linear, x_BTD, kv_down_DC=(D, c.kv_latent))
    latent_BTC = rms_norm(latent_BTC, norm_scale(self, "kv_norm_C", c.kv_latent), LATENT_EPS)
    rope_BTR = multiplied(self, linear, x_BTD, k_rope_DR=(D, c.rope_dim))
    return latent_BTC, rotate(rope_BTR[:, :, None], *rotation, interleaved=True)[:, :, 0]
