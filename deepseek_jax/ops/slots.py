"""Slots: where each token's choice of expert is computed.

Local axis letters, beside the legend: I items (a token's one choice, N * A of them, token-major),
C slots that every expert owns.

Items are sorted by expert. The first C of an expert take its slots; what is left over stays where
it is in the sorted order, one contiguous run per expert, for a second pass. Choices outside the
experts held here are sorted to the end and belong to no run.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Slots(NamedTuple):
  """An assignment of items to slots; int32 but for `filled_EC`."""

  item_EC: jax.Array  # the item in a slot; any item where the slot is empty
  filled_EC: jax.Array  # bool
  slot_NA: jax.Array  # slot of a choice, e * C + c; 0 where it has none
  slotted_NA: jax.Array  # bool: the choice has a slot
  order_I: jax.Array  # items sorted by expert, within an expert by item
  start_E: jax.Array  # where an expert's run begins in order_I
  count_E: jax.Array  # its length


def assign(experts_NA: jax.Array, experts: int, capacity: int) -> Slots:
  """Sorts choices by expert; choices outside [0, experts) get no slot and are in no run."""
  n, a = experts_NA.shape
  items = n * a
  held_I = experts_NA.reshape(items)
  held_I = jnp.where((held_I >= 0) & (held_I < experts), held_I, experts).astype(jnp.int32)
  rank_I = jnp.arange(items, dtype=jnp.int32)
  if (experts + 1) * items < 2**31:  # one packed key sorts four times as fast as a pair on a CPU
    packed_I = jnp.sort(held_I * items + rank_I, stable=False)
    order_I, sorted_I = packed_I % items, packed_I // items
  else:
    order_I = jnp.argsort(held_I, stable=True).astype(jnp.int32)
    sorted_I = held_I[order_I]
  bound_E1 = _bounds(held_I, sorted_I, experts)
  start_E, count_E = bound_E1[:-1], jnp.diff(bound_E1)

  slot_C = jnp.arange(capacity, dtype=jnp.int32)
  position_EC = jnp.minimum(start_E[:, None] + slot_C, items - 1)
  place_I = _places(held_I, rank_I, order_I, sorted_I, bound_E1)
  slotted_I = (place_I < capacity) & (held_I < experts)
  slot_NA = jnp.where(slotted_I, held_I * capacity + place_I, -1).reshape(n, a)
  return Slots(
    item_EC=order_I[position_EC],
    filled_EC=slot_C < count_E[:, None],
    slot_NA=jnp.maximum(slot_NA, 0),
    slotted_NA=slot_NA >= 0,
    order_I=order_I,
    start_E=start_E,
    count_E=count_E,
  )


_FEW = 256  # items up to which pairs are compared, which compiles to one loop instead of many


def _bounds(held_I: jax.Array, sorted_I: jax.Array, experts: int) -> jax.Array:
  """Where the runs of experts 0 .. E begin in the sorted order."""
  expert_E1 = jnp.arange(experts + 1, dtype=jnp.int32)
  if len(held_I) <= _FEW:
    return jnp.sum(held_I[:, None] < expert_E1, axis=0, dtype=jnp.int32)
  return jnp.searchsorted(sorted_I, expert_E1).astype(jnp.int32)


def _places(
  held_I: jax.Array, rank_I: jax.Array, order_I: jax.Array, sorted_I: jax.Array, bound_E1: jax.Array
) -> jax.Array:
  """Each item's place in its expert's run."""
  if len(held_I) <= _FEW:
    before_II = (held_I[:, None] == held_I) & (rank_I < rank_I[:, None])
    return jnp.sum(before_II, axis=1, dtype=jnp.int32)
  place_I = rank_I - bound_E1[sorted_I]
  return jnp.zeros_like(order_I).at[order_I].set(place_I, unique_indices=True)
