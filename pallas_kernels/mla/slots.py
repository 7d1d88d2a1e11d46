"""Valid slots as blocks: what a kernel need not read, and what it need not mask."""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that the maximum of no slots can be subtracted from itself


def blocked(valid_BS: jax.Array, block: int) -> jax.Array:
  """The valid slots by blocks, int32 [B, N, block]; the last block ends with the cache.

  Where it reaches back into the block before, its first slots count as not valid.
  """
  B, S = valid_BS.shape
  whole = -(-S // block) - 1
  valid_BS = valid_BS.astype(jnp.int32)
  head_BNS = valid_BS[:, : whole * block].reshape(B, whole, block)
  own_S = jnp.arange(S - block, S) >= whole * block
  return jnp.concatenate([head_BNS, (valid_BS[:, S - block :] * own_S)[:, None]], axis=1)


def block_bounds(valid_BNS: jax.Array, parts: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Where each part of a row begins and ends, in blocks [B, P], and which are whole [B, N]; int32.

  Parts share evenly what lies between a row's first and last block with valid slots; of a row
  without any they are empty.
  """
  used_BN = valid_BNS.any(axis=-1)
  blocks = used_BN.shape[1]
  any_B = used_BN.any(axis=1)
  first_B = jnp.where(any_B, used_BN.argmax(axis=1), 0)
  end_B = jnp.where(any_B, blocks - used_BN[:, ::-1].argmax(axis=1), 0)
  share_B = -(-(end_B - first_B) // parts)
  edges_BP = jnp.minimum(
    first_B[:, None] + share_B[:, None] * jnp.arange(parts + 1), end_B[:, None]
  )
  edges_BP = edges_BP.astype(jnp.int32)
  return edges_BP[:, :-1], edges_BP[:, 1:], valid_BNS.all(axis=-1).astype(jnp.int32)
