"""Routing as one Mosaic TPU kernel: scores, groups, choice, weights and ranks of a tile of tokens.

Tokens lie along the lanes and experts along the sublanes: what is reduced over experts is then a
matter of whole registers, and the results [A, N] fill theirs. Tiles follow one another, so that the
experts' counts so far stand in memory, and the sort of the choices costs one small matmul.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels.dispatch import require
from pallas_kernels.routing.rule import Routing, Rule

TILE = 128  # tokens of a step; one register's lanes


def route(
  logits_NE: jax.Array, bias_E: jax.Array, rule: Rule, *, interpret: Any = False
) -> Routing:
  """Routes tokens by their logits; see `api.route`."""
  N, E = logits_NE.shape
  require(E % 8 == 0, f"{E} experts do not fill registers of 8.")
  A = rule.top_k
  tile_AN = pl.BlockSpec((A, TILE), lambda n: (0, n))
  column_E1 = pl.BlockSpec((E, 1), lambda n: (0, 0))
  experts_AN, weights_AN, rank_AN, counts_E1 = pl.pallas_call(
    functools.partial(_kernel, rule=rule, tokens=N),
    grid=(pl.cdiv(N, TILE),),
    in_specs=[pl.BlockSpec((E, TILE), lambda n: (0, n)), column_E1],
    out_specs=[tile_AN, tile_AN, tile_AN, column_E1],
    out_shape=[
      jax.ShapeDtypeStruct((A, N), jnp.int32),
      jax.ShapeDtypeStruct((A, N), jnp.float32),
      jax.ShapeDtypeStruct((A, N), jnp.int32),
      jax.ShapeDtypeStruct((E, 1), jnp.int32),
    ],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
    interpret=interpret,
    name="routing",
  )(logits_NE.astype(jnp.float32).T, bias_E.astype(jnp.float32)[:, None])
  return Routing(experts_AN.T, weights_AN.T, rank_AN.T, counts_E1[:, 0])


def _kernel(
  logits_ref, bias_ref, experts_ref, weights_ref, rank_ref, counts_ref, *, rule: Rule, tokens: int
):
  """One tile: references are [E, N], [E, 1], three of [A, N], and [E, 1]."""

  @pl.when(pl.program_id(0) == 0)
  def _():
    counts_ref[...] = jnp.zeros_like(counts_ref)

  scores_EN = _affinities(logits_ref[...], rule)
  choice_EN = scores_EN + bias_ref[...]
  choice_EN = jnp.where(choice_EN == choice_EN, choice_EN, jnp.inf)  # NaN first, as in top-k
  if rule.limited:
    choice_EN = _close_groups(choice_EN, rule)
  chosen_EN = _best(choice_EN, rule.top_k)
  before_EN = _before(chosen_EN, tokens) + counts_ref[...]
  experts, weights, ranks = _read(chosen_EN, scores_EN, before_EN, rule.top_k)
  counts_ref[...] += _real(chosen_EN, tokens).astype(jnp.int32).sum(axis=1, keepdims=True)
  experts_ref[...] = experts
  rank_ref[...] = ranks
  if rule.normalize:
    weights = weights / (weights.sum(axis=0, keepdims=True) + 1e-20)
  weights_ref[...] = weights * rule.scale


def _affinities(logits_EN: jax.Array, rule: Rule) -> jax.Array:
  if rule.scoring == "sigmoid":
    return jax.nn.sigmoid(logits_EN)
  return jax.nn.softmax(logits_EN, axis=0)


def _rows(x_EN: jax.Array) -> jax.Array:
  """Each entry's place along the first axis."""
  return jax.lax.broadcasted_iota(jnp.int32, x_EN.shape, 0)


def _top(x_EN: jax.Array, row_EN: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The largest entry of each column [1, N], and where it stands first: bool [E, N].

  `row_EN` is each entry's place, or beyond all places where it has been taken.
  """
  top_1N = x_EN.max(axis=0, keepdims=True)
  beyond = x_EN.shape[0]
  first_1N = jnp.where(x_EN == top_1N, row_EN, beyond).min(axis=0, keepdims=True)
  return top_1N, row_EN == first_1N


def _group_score(x_EN: jax.Array, rule: Rule) -> jax.Array:
  """The score [1, N] of one group's experts."""
  top_1N, first_EN = _top(x_EN, _rows(x_EN))
  if rule.group_score == "max":
    return top_1N
  return top_1N + jnp.where(first_EN, -jnp.inf, x_EN).max(axis=0, keepdims=True)


def _close_groups(choice_EN: jax.Array, rule: Rule) -> jax.Array:
  """The scores, -inf outside each token's best groups."""
  size = choice_EN.shape[0] // rule.groups
  groups = [choice_EN[g * size : (g + 1) * size] for g in range(rule.groups)]
  scores = [_group_score(x_EN, rule) for x_EN in groups]
  kept = []
  for g, x_EN in enumerate(groups):
    better = jnp.zeros(scores[g].shape, jnp.int32)
    for h, other in enumerate(scores):
      if h != g:
        ahead = other >= scores[g] if h < g else other > scores[g]
        better += ahead.astype(jnp.int32)
    kept.append(jnp.where(better < rule.top_groups, x_EN, -jnp.inf))
  return jnp.concatenate(kept, axis=0)


def _best(choice_EN: jax.Array, top_k: int) -> jax.Array:
  """Whether an expert is among a token's best."""
  row_EN = _rows(choice_EN)
  for _ in range(top_k):
    _, first_EN = _top(choice_EN, row_EN)
    row_EN = jnp.where(first_EN, choice_EN.shape[0], row_EN)
    choice_EN = jnp.where(first_EN, -jnp.inf, choice_EN)
  return row_EN == choice_EN.shape[0]


def _real(chosen_EN: jax.Array, tokens: int) -> jax.Array:
  """The choices of tokens that exist: the last tile may reach beyond."""
  token_EN = jax.lax.broadcasted_iota(jnp.int32, chosen_EN.shape, 1) + pl.program_id(0) * TILE
  return chosen_EN & (token_EN < tokens)


def _before(chosen_EN: jax.Array, tokens: int) -> jax.Array:
  """How many earlier tokens of the tile chose the expert, int32: exact, as ones and zeros are."""
  i = jax.lax.broadcasted_iota(jnp.int32, (TILE, TILE), 0)
  j = jax.lax.broadcasted_iota(jnp.int32, (TILE, TILE), 1)
  earlier = jnp.where(i < j, 1.0, 0.0).astype(jnp.bfloat16)
  chosen = jnp.where(_real(chosen_EN, tokens), 1.0, 0.0).astype(jnp.bfloat16)
  return jnp.dot(chosen, earlier, preferred_element_type=jnp.float32).astype(jnp.int32)


def _read(chosen_EN, scores_EN, before_EN, top_k: int) -> list[jax.Array]:
  """The chosen experts in ascending order, their affinities and their ranks, each [A, N]."""
  beyond = chosen_EN.shape[0]
  row_EN = jnp.where(chosen_EN, _rows(chosen_EN), beyond)
  columns = []
  for _ in range(top_k):
    expert_1N = row_EN.min(axis=0, keepdims=True)
    hit_EN = row_EN == expert_1N
    score_1N = jnp.where(hit_EN, scores_EN, 0.0).sum(axis=0, keepdims=True)
    rank_1N = jnp.where(hit_EN, before_EN, 0).sum(axis=0, keepdims=True)
    columns.append((expert_1N, score_1N, rank_1N))
    row_EN = jnp.where(hit_EN, beyond, row_EN)
  return [jnp.concatenate(column, axis=0) for column in zip(*columns)]
