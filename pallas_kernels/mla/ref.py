"""Absorbed attention in plain float32 jnp; what the other forms are held against."""

import jax
import jax.numpy as jnp


def decode(
  q_BHX: jax.Array, kv_BSX: jax.Array, valid_BS: jax.Array, *, latent: int, scale: float
) -> jax.Array:
  """Attends over the valid slots; see `api.mla_decode`."""
  valid_BS = valid_BS.astype(bool)
  kv_BSX = jnp.where(valid_BS[:, :, None], kv_BSX.astype(jnp.float32), 0)
  dtype, q_BHX = q_BHX.dtype, q_BHX.astype(jnp.float32)
  scores_BHS = jnp.einsum("bhx,bsx->bhs", q_BHX, kv_BSX, precision="highest") * scale
  scores_BHS = jnp.where(valid_BS[:, None], scores_BHS, -jnp.inf)
  top_BH1 = jnp.maximum(scores_BHS.max(axis=-1, keepdims=True), jnp.finfo(jnp.float32).min)
  weights_BHS = jnp.exp(scores_BHS - top_BH1)
  total_BH1 = weights_BHS.sum(axis=-1, keepdims=True)
  weights_BHS = weights_BHS / jnp.where(total_BH1 == 0, 1, total_BH1)
  kv_BSC = kv_BSX[..., :latent]
  return jnp.einsum("bhs,bsc->bhc", weights_BHS, kv_BSC, precision="highest").astype(dtype)
