"""Routing as XLA runs it best: top-k instead of sorts, and ranks by sums over the tokens."""

import jax
import jax.numpy as jnp

from pallas_kernels.routing.ref import affinities, weigh
from pallas_kernels.routing.rule import Routing, Rule


def route(logits_NE: jax.Array, bias_E: jax.Array, rule: Rule) -> Routing:
  """Routes tokens by their logits; see `api.route`."""
  scores_NE = affinities(logits_NE, rule)
  choice_NE = scores_NE + bias_E
  if rule.limited:
    choice_NE = _close_groups(choice_NE, rule)
  experts_NA = jnp.sort(jax.lax.top_k(choice_NE, rule.top_k)[1], axis=-1)
  return Routing(experts_NA, weigh(scores_NE, experts_NA, rule), *ranks(experts_NA, bias_E.size))


def ranks(experts_NA: jax.Array, experts: int) -> tuple[jax.Array, jax.Array]:
  """How many earlier tokens chose the same expert [N, A], and how many did in all [E], int32.

  A token's experts must differ. Without a sort: a token and an expert meet at most once.
  """
  chosen_NE = (experts_NA[:, :, None] == jnp.arange(experts)).any(axis=1).astype(jnp.int32)
  before_NE = jnp.cumsum(chosen_NE, axis=0) - chosen_NE
  return jnp.take_along_axis(before_NE, experts_NA, axis=1), chosen_NE.sum(axis=0)


def _close_groups(choice_NE: jax.Array, rule: Rule) -> jax.Array:
  """The scores, -inf outside each token's best groups."""
  grouped_NZE = choice_NE.reshape(choice_NE.shape[0], rule.groups, -1)
  best = jax.lax.top_k(grouped_NZE, 2 if rule.group_score == "top2" else 1)[0]
  _, open_NZ = jax.lax.top_k(best.sum(axis=-1), rule.top_groups)
  kept_NZ = jax.nn.one_hot(open_NZ, rule.groups, dtype=jnp.bool_).any(axis=1)
  return jnp.where(kept_NZ[:, :, None], grouped_NZE, -jnp.inf).reshape(choice_NE.shape)
