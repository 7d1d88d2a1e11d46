"""Routing in plain jnp, by stable sorts; what the other forms are held against.

Everything is float32. Of equal scores the lower index is taken first.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.routing.rule import Routing, Rule


def route(logits_NE: jax.Array, bias_E: jax.Array, rule: Rule) -> Routing:
  """Routes tokens by their logits; see `api.route`."""
  scores_NE = affinities(logits_NE, rule)
  choice_NE = scores_NE + bias_E
  if rule.limited:
    grouped_NZE = choice_NE.reshape(choice_NE.shape[0], rule.groups, -1)
    best_NZE = jnp.sort(grouped_NZE, axis=-1, descending=True)
    group_NZ = best_NZE[..., : 2 if rule.group_score == "top2" else 1].sum(axis=-1)
    open_NZ = _first(group_NZ, rule.top_groups)
    choice_NE = jnp.where(open_NZ[..., None], grouped_NZE, -jnp.inf).reshape(choice_NE.shape)
  order_NE = jnp.argsort(choice_NE, axis=-1, stable=True, descending=True)
  experts_NA = jnp.sort(order_NE[:, : rule.top_k], axis=-1).astype(jnp.int32)
  ones_NA = jnp.ones_like(experts_NA)
  counts_E = jnp.zeros(bias_E.shape[0], jnp.int32).at[experts_NA].add(ones_NA)
  order_M = jnp.argsort(experts_NA.reshape(-1), stable=True)  # M: the choices, N * A
  place_M = jnp.zeros_like(order_M).at[order_M].set(jnp.arange(order_M.size))
  rank_NA = place_M.reshape(experts_NA.shape) - (jnp.cumsum(counts_E) - counts_E)[experts_NA]
  return Routing(experts_NA, weigh(scores_NE, experts_NA, rule), rank_NA, counts_E)


def affinities(logits_NE: jax.Array, rule: Rule) -> jax.Array:
  """Affinity of each token to each expert."""
  logits_NE = logits_NE.astype(jnp.float32)
  sigmoid = rule.scoring == "sigmoid"
  return jax.nn.sigmoid(logits_NE) if sigmoid else jax.nn.softmax(logits_NE, axis=-1)


def weigh(scores_NE: jax.Array, experts_NA: jax.Array, rule: Rule) -> jax.Array:
  """Weights [N, A] of the chosen experts, from affinities without bias."""
  onehot = experts_NA[:, :, None] == jnp.arange(scores_NE.shape[1])
  weights_NA = jnp.where(onehot, scores_NE[:, None, :], 0.0).sum(axis=-1)
  if rule.normalize:
    weights_NA = weights_NA / (weights_NA.sum(axis=-1, keepdims=True) + 1e-20)
  return weights_NA * rule.scale


def _first(x_NZ: jax.Array, count: int) -> jax.Array:
  """Whether an entry is among the `count` largest of its row."""
  order_NZ = jnp.argsort(x_NZ, axis=-1, stable=True, descending=True)
  return jnp.argsort(order_NZ, axis=-1) < count
