"""Absorbed attention as XLA runs it best: operands stay as they lie in memory.

Slots that are not valid must be finite here, as those of a cache that began as zeros are: their
weight is zero, and to cut them out would copy the cache.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.mla.slots import MASKED


def decode(
  q_BHX: jax.Array, kv_BSX: jax.Array, valid_BS: jax.Array, *, latent: int, scale: float
) -> jax.Array:
  """Attends over the valid slots; see `api.mla_decode`."""
  valid_B1S = valid_BS.astype(bool)[:, None]
  dtype, q_BHX = q_BHX.dtype, q_BHX.astype(kv_BSX.dtype)
  scores_BHS = jnp.einsum("bhx,bsx->bhs", q_BHX, kv_BSX, preferred_element_type=jnp.float32)
  scores_BHS = jnp.where(valid_B1S, scores_BHS * scale, MASKED)
  weights_BHS = jnp.exp(scores_BHS - scores_BHS.max(axis=-1, keepdims=True))
  weights_BHS = jnp.where(valid_B1S, weights_BHS, 0)
  total_BH1 = weights_BHS.sum(axis=-1, keepdims=True)
  # Divided by their total only now, so that the largest weight, 1, is not rounded.
  weights_BHS = weights_BHS.astype(kv_BSX.dtype)
  mixed_BHX = jnp.einsum("bhs,bsx->bhx", weights_BHS, kv_BSX, preferred_element_type=jnp.float32)
  mixed_BHC = mixed_BHX[..., :latent]  # cheaper than to cut the cache
  return (mixed_BHC / jnp.where(total_BH1 == 0, 1, total_BH1)).astype(dtype)
