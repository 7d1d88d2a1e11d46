"""Which keys a query may see, and which blocks of keys a block of queries has to meet."""

import jax
import jax.numpy as jnp

from deepseek_jax.types import SHARED, Span

MASKED = -1e30  # of a score; finite: a row without any visible key gets uniform weights, not NaN


def visible_BTS(queries: Span, keys: Span) -> jax.Array:
  """Which keys each query may see: at or before its position, of its segment or a shared one."""
  own_BT1, key_B1S = queries.segments_BT[:, :, None], keys.segments_BT[:, None, :]
  same = (own_BT1 == key_B1S) | (own_BT1 % SHARED == key_B1S)
  past = keys.positions_BT[:, None, :] <= queries.positions_BT[:, :, None]
  return same & past


def visible_blocks(queries: Span, keys: Span, query_block: int, key_block: int) -> jax.Array:
  """Bool [query blocks, key blocks]: false where no query of the block sees any key of the other.

  By the least and the greatest position and segment of each block; true where these leave it open.
  """
  own, shared = queries.segments_BT, queries.segments_BT % SHARED
  met = _ranges(keys.segments_BT, key_block)
  same = _overlap(_ranges(own, query_block), met) | _overlap(_ranges(shared, query_block), met)
  earliest, _ = _ranges(keys.positions_BT, key_block)
  _, latest = _ranges(queries.positions_BT, query_block)
  return jnp.any(same & (earliest[:, None, :] <= latest[:, :, None]), axis=0)


def _ranges(x_BT: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
  """The least and the greatest of each block, both [B, blocks]."""
  x = jnp.pad(x_BT, ((0, 0), (0, -x_BT.shape[1] % block)), mode="edge")
  x = x.reshape(x.shape[0], -1, block)
  return x.min(axis=-1), x.max(axis=-1)


def _overlap(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Of ranges [B, N] and [B, M], which have something in common: [B, N, M]."""
  return (a[0][:, :, None] <= b[1][:, None, :]) & (b[0][:, None, :] <= a[1][:, :, None])
