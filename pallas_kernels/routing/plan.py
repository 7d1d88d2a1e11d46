"""Where each choice goes when choices are sorted by expert: the dispatch plan."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.routing.rule import Routing

ALIGNMENT = 128  # rows of a tile of the grouped matmul, which has one expert


class Plan(NamedTuple):
  """The stable sort of the choices m = n * A + a by expert (M = N * A of them), all int32.

  Sorted rows are `x_ND[order_M // A]`; `y_MD[place_M].reshape(N, A, D)` brings results back. In the
  aligned layout each expert's rows begin at a multiple of 128 and what lies between is padding.
  """

  order_M: jax.Array  # the choice at each sorted place
  place_M: jax.Array  # the sorted place of each choice: the inverse
  counts_E: jax.Array
  offsets_E: jax.Array  # E + 1 of them: an expert's first place; the last is M
  aligned_E: jax.Array  # E + 1: the same in the aligned layout; the last is where all end
  row_M: jax.Array  # each choice's row in the aligned layout


def plan(routing: Routing) -> Plan:
  """The plan by which routed tokens are dispatched; no sort, as ranks and counts are known."""
  M, counts_E = routing.experts_NA.size, routing.counts_E
  experts_M, rank_M = routing.experts_NA.reshape(M), routing.rank_NA.reshape(M)
  offsets_E = _starts(counts_E)
  aligned_E = _starts(-(-counts_E // ALIGNMENT) * ALIGNMENT)
  place_M = offsets_E[experts_M] + rank_M
  order_M = (
    jnp.zeros(M, jnp.int32).at[place_M].set(jnp.arange(M, dtype=jnp.int32), unique_indices=True)
  )
  return Plan(order_M, place_M, counts_E, offsets_E, aligned_E, aligned_E[experts_M] + rank_M)


def _starts(sizes_E: jax.Array) -> jax.Array:
  """Where runs of these sizes start, and where the last ends: E + 1 numbers."""
  return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(sizes_E, dtype=jnp.int32)])
