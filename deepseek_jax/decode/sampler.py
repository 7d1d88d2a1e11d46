"""Prefill and cached decoding in one compiled program.

The loop ends as soon as every row has stopped. At a quarter and at half of `max_new` the rows still
alive are gathered into few groups and the cache is grown, so that a long sample is not paid for by
those that have ended. Under a mesh whose only split axes carry rows, each device runs its own
loop on its own rows (shard_map), so that devices do not wait for one another before each token;
when parameters are split too, the compiler partitions one loop.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from deepseek_jax.decode.rows import Rows, Sampled, grow, in_groups
from deepseek_jax.decode.sampling import sample_token, token_keys
from deepseek_jax.model.cache import init_cache
from deepseek_jax.model.transformer import Transformer, forward, head_DV
from deepseek_jax.sharding import ROWS
from deepseek_jax.types import Weights

_PHASED = 12  # from so many new tokens on it is worth compiling the loop several times
_PHASES = ((4, 2), (2, 4), (1, 1))  # to max_new / first; the rows then fall into so many groups


class Prompts(NamedTuple):
  """A batch of prompts, padded on the left to a common length, and what steers their sampling."""

  tokens_BT: jax.Array  # int32
  real_BT: jax.Array  # bool, false where padded
  keys_BX: jax.Array  # uint32: the raw data of each sample's key
  active_B: jax.Array  # bool, false in rows that only fill the batch


class Rule(NamedTuple):
  """How tokens are chosen, and which end a sample."""

  temperature: jax.Array
  top_p: jax.Array
  stop_K: jax.Array  # int32


def sample(
  model: Transformer, weights: Weights, prompts: Prompts, rule: Rule, *, max_new: int
) -> Sampled:
  """Samples up to `max_new` tokens after each prompt; every prompt has at least one token.

  Not jitted here: `compiled` is. Compiles once per (model, batch, prompt slots, max_new).
  """
  if not _rows_only(model.mesh):
    return _sample(model, weights, prompts, rule, max_new)
  local = model.clone(mesh=None)
  whole: Any = PartitionSpec()
  rows: Any = PartitionSpec(ROWS)
  rows_of_layers: Any = PartitionSpec(None, ROWS)
  return jax.shard_map(
    functools.partial(_sample, local, max_new=max_new),
    mesh=model.mesh,
    in_specs=(whole, rows, whole),
    out_specs=Sampled(rows, rows, rows, rows, rows_of_layers),
    check_vma=False,
  )(weights, prompts, rule)


compiled = jax.jit(sample, static_argnames=("model", "max_new"))


def _rows_only(mesh: Mesh | None) -> bool:
  """Whether a mesh splits rows and, in effect, nothing else."""
  return mesh is not None and all(
    size == 1 for name, size in mesh.shape.items() if name not in ROWS
  )


def _sample(
  model: Transformer, weights: Weights, prompts: Prompts, rule: Rule, max_new: int
) -> Sampled:
  """`sample` on one device, or partitioned by the compiler."""
  prompt_slots = prompts.tokens_BT.shape[1]
  # Gathering rows across devices would cost more than it saves.
  phased = max_new >= _PHASED and model.mesh is None
  phases = [(max_new // part, groups) for part, groups in (_PHASES if phased else _PHASES[-1:])]
  advance = functools.partial(_advance, model, weights, rule)

  def run(rows: Rows, phases: list[tuple[int, int]]) -> Sampled:
    (limit, groups), *later = phases
    # The last token sampled is never shown to the model, hence one slot fewer.
    rows = _until(grow(rows, prompt_slots + limit - 1), limit, advance)
    if not later:
      return rows.sampled
    return in_groups(rows, math.gcd(groups, len(rows.done_B)), lambda group: run(group, later))

  first = prompt_slots + phases[0][0] - 1
  return run(_prefill(model, weights, prompts, rule, max_new, first), phases)


def _until(rows: Rows, limit: int, advance) -> Rows:
  """Rows advanced until they have `limit` new tokens or all have ended."""
  return jax.lax.while_loop(lambda r: (r.step < limit) & ~r.done_B.all(), advance, rows)


def _prefill(
  model: Transformer, weights: Weights, prompts: Prompts, rule: Rule, max_new: int, slots: int
) -> Rows:
  """Rows with the prompts in a cache of `slots` slots, and their first new token."""
  batch = len(prompts.active_B)
  real_BT = prompts.real_BT
  positions_BT = jnp.maximum(jnp.cumsum(real_BT, axis=1, dtype=jnp.int32) - 1, 0)
  cache = init_cache(model.config, batch, slots, jnp.dtype(model.compute.dtype))
  out = forward(model, weights, prompts.tokens_BT, positions_BT, real_BT.astype(jnp.int32), cache)
  assert out.cache is not None  # for one went in
  kind = jnp.int8 if model.config.moe is None or model.config.moe.experts < 128 else jnp.int16
  experts_LBTA = jnp.where(real_BT[:, :, None], out.routing.experts_LBTA, -1).astype(kind)
  sampled = Sampled(
    tokens_BX=jnp.zeros((batch, max_new), jnp.int32),
    logprobs_BX=jnp.zeros((batch, max_new), jnp.float32),
    lengths_B=jnp.zeros(batch, jnp.int32),
    stopped_B=jnp.zeros(batch, bool),
    experts_LBTA=jnp.pad(experts_LBTA, ((0, 0), (0, 0), (0, max_new), (0, 0)), constant_values=-1),
  )
  rows = Rows(
    step=jnp.zeros((), jnp.int32),
    prompt_B=real_BT.sum(axis=1, dtype=jnp.int32),
    keys_BX=prompts.keys_BX,
    token_B=jnp.zeros(batch, jnp.int32),
    done_B=~prompts.active_B,
    sampled=sampled,
    cache=out.cache,
  )
  return _choose(rows, out.hidden_BTD[:, -1], head_DV(model, weights), rule)


def _advance(model: Transformer, weights: Weights, rule: Rule, rows: Rows) -> Rows:
  """Shows the model the last token of each row and chooses the next."""
  positions_B1 = (rows.prompt_B + rows.step - 1)[:, None]
  segments_B1 = jnp.ones_like(positions_B1)
  tokens_B1 = rows.token_B[:, None]
  slot = rows.cache.index
  out = forward(model, weights, tokens_B1, positions_B1, segments_B1, rows.cache, absorbed=True)
  assert out.cache is not None  # for one went in
  old_LBTA = rows.sampled.experts_LBTA
  new_LB1A = jnp.where(rows.done_B[:, None, None], -1, out.routing.experts_LBTA)
  experts_LBTA = jax.lax.dynamic_update_slice_in_dim(
    old_LBTA, new_LB1A.astype(old_LBTA.dtype), slot, axis=2
  )
  sampled = rows.sampled._replace(experts_LBTA=experts_LBTA)
  rows = rows._replace(cache=out.cache, sampled=sampled)
  return _choose(rows, out.hidden_BTD[:, -1], head_DV(model, weights), rule)


def _choose(rows: Rows, hidden_BD: jax.Array, head_DV: jax.Array, rule: Rule) -> Rows:
  """Samples a token per row and records it in those that have not ended."""
  logits_BV = jnp.dot(hidden_BD, head_DV, preferred_element_type=jnp.float32)
  keys_B = token_keys(jax.random.wrap_key_data(rows.keys_BX), rows.step)
  token_B, logprob_B = sample_token(logits_BV, keys_B, rule.temperature, rule.top_p)
  live_B = ~rows.done_B
  stopped_B = live_B & (token_B[:, None] == rule.stop_K).any(axis=-1)
  put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=rows.step, axis=1)
  old = rows.sampled
  sampled = Sampled(
    put(old.tokens_BX, jnp.where(live_B, token_B, 0)[:, None]),
    put(old.logprobs_BX, jnp.where(live_B, logprob_B, 0)[:, None]),
    old.lengths_B + live_B,
    old.stopped_B | stopped_B,
    old.experts_LBTA,
  )
  done_B = rows.done_B | stopped_B
  return rows._replace(step=rows.step + 1, token_B=token_B, done_B=done_B, sampled=sampled)
