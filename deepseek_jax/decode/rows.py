"""Rows: the requests under way, one per row of the cache, and moving them about.

All rows write the same slot of the cache at a time, so that a step's write is one slice. A row's
tokens therefore lie right-aligned before the cache's index, wherever it was when they came; what is
not the row's own is masked. A prompt enters by being written into the slots before the index
(`insert`); when the slots run out, or rows fall empty for good, the live ones are gathered into a
cache of another size (`regather`). Sizes come in few steps, so that few programs are compiled.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.decode.sampling import Rule, sample_token, token_keys
from deepseek_jax.model.cache import DecodeCache, map_slots
from deepseek_jax.types import Span


@flax.struct.dataclass
class Rows:
  """The state of each row beside its cache; K stop tokens, -1 where there are fewer."""

  token_B: jax.Array  # int32: sampled last, not yet shown to the model
  position_B: jax.Array  # int32: its position
  count_B: jax.Array  # int32: tokens sampled so far
  limit_B: jax.Array  # int32: tokens to sample at most
  live_B: jax.Array  # bool: neither stopped nor at its limit, and not empty
  keys_BW: jax.Array  # uint32: the raw data of each sample's key
  rule: Rule
  stop_BK: jax.Array  # int32


def empty_rows(batch: int, key_words: int, stops: int) -> Rows:
  """Rows that hold no request, in NumPy's arrays."""

  def full(value: float, kind: Any = np.int32) -> Any:
    return np.full(batch, value, kind)

  def table(width: int, value: int, kind: Any) -> Any:
    return np.full((batch, width), value, kind)

  return Rows(
    token_B=full(0),
    position_B=full(0),
    count_B=full(0),
    limit_B=full(0),
    live_B=full(False, bool),
    keys_BW=table(key_words, 0, np.uint32),
    rule=Rule(full(0, np.float32), full(1, np.float32), full(0)),
    stop_BK=table(stops, -1, np.int32),
  )


def choose(rows: Rows, logits_BV: jax.Array) -> tuple[Rows, jax.Array]:
  """The rows with their next token, and its log-probability; rows that do not live stay."""
  keys_B = token_keys(jax.random.wrap_key_data(rows.keys_BW), rows.count_B)
  token_B, logprob_B = sample_token(logits_BV, keys_B, rows.rule)
  count_B = rows.count_B + rows.live_B
  stopped_B = (token_B[:, None] == rows.stop_BK).any(axis=-1)
  rows = dataclasses.replace(
    rows,
    token_B=jnp.where(rows.live_B, token_B, rows.token_B),
    position_B=rows.position_B + rows.live_B,
    count_B=count_B,
    live_B=rows.live_B & ~stopped_B & (count_B < rows.limit_B),
  )
  return rows, logprob_B


@functools.partial(jax.jit, donate_argnames=("cache",))
def insert(
  rows: Rows,
  cache: DecodeCache,
  fresh: Rows,
  source_B: jax.Array,
  prompts: DecodeCache,
  logits_NV: jax.Array,
) -> tuple[Rows, DecodeCache, jax.Array, jax.Array]:
  """Puts prefilled prompts into rows, and samples their first tokens.

  Row b takes prompt `source_B[b]` of `prompts`, whose last token lies in its last slot, and the
  state `fresh` has for it; -1 leaves the row. Several rows may take one prompt. Returns the first
  tokens and log-probabilities too. The cache's index must not be below the slots of `prompts`.
  """
  entering_B = source_B >= 0
  source_B = jnp.maximum(source_B, 0)
  slots = prompts.span.positions_BT.shape[1]
  start = cache.index - slots

  def place(axis: int, old: jax.Array, new: jax.Array) -> jax.Array:
    window = jax.lax.dynamic_slice_in_dim(old, start, slots, axis)
    mine_B = entering_B.reshape(-1, *[1] * (old.ndim - 1))
    window = jnp.where(mine_B, new[source_B].astype(old.dtype), window)
    return jax.lax.dynamic_update_slice_in_dim(old, window, start, axis)

  former_BS = jnp.where(entering_B[:, None], -1, cache.span.segments_BT)  # without those replaced
  span = Span(
    place(1, cache.span.positions_BT, prompts.span.positions_BT),
    place(1, former_BS, prompts.span.segments_BT),
  )
  layers = tuple(map_slots(place, *both) for both in zip(cache.layers, prompts.layers))
  rows = _where(entering_B, fresh, rows)
  others_B = rows.live_B & ~entering_B
  entered, logprob_B = choose(dataclasses.replace(rows, live_B=entering_B), logits_NV[source_B])
  rows = dataclasses.replace(entered, live_B=entered.live_B | others_B)
  return rows, DecodeCache(layers, span, cache.index), entered.token_B, logprob_B


@functools.partial(jax.jit, static_argnames=("slots",))
def regather(cache: DecodeCache, take_B: jax.Array, index: jax.Array, *, slots: int) -> DecodeCache:
  """Rows `take_B` (-1: an empty row) in a cache of `slots` slots whose next one is `index`.

  Each row's tokens are gathered right before `index`, without what was between them; no row may
  have more. So rows change in number and order, and the cache in size.
  """
  held_B1 = (take_B >= 0)[:, None]
  take_B = jnp.maximum(take_B, 0)
  segments_BS = cache.span.segments_BT[take_B]
  old_slots = segments_BS.shape[1]
  own_BS = (segments_BS > 0) & (jnp.arange(old_slots) < cache.index) & held_B1
  order_BS = jnp.argsort(own_BS, axis=1, stable=True)  # own tokens last, as they follow one another
  place_S = jnp.arange(slots) - index + old_slots
  source_BS = order_BS[:, jnp.clip(place_S, 0, old_slots - 1)]
  within_S = (place_S >= 0) & (place_S < old_slots)
  filled_BS = within_S & jnp.take_along_axis(own_BS, source_BS, axis=1)

  def gather(axis: int, x: jax.Array) -> jax.Array:
    return jnp.moveaxis(jnp.moveaxis(x, axis, 1)[take_B[:, None], source_BS], 1, axis)

  span = Span(gather(1, cache.span.positions_BT), jnp.where(filled_BS, 1, -1))
  layers = tuple(map_slots(gather, entry) for entry in cache.layers)
  return DecodeCache(layers, span, jnp.asarray(index, jnp.int32))


@jax.jit
def take_rows(rows: Rows, take_B: jax.Array) -> Rows:
  """Rows `take_B`; -1 is an empty row."""
  taken = jax.tree.map(lambda x: x[jnp.maximum(take_B, 0)], rows)
  return dataclasses.replace(taken, live_B=taken.live_B & (take_B >= 0))


@jax.jit
def retire(rows: Rows, ended_B: jax.Array) -> Rows:
  """The rows, of which those that ended live no longer."""
  return dataclasses.replace(rows, live_B=rows.live_B & ~ended_B)


def _where(chosen_B: jax.Array, new: Rows, old: Rows) -> Rows:
  """`new` in the chosen rows, `old` in the others."""

  def pick(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(chosen_B.reshape(-1, *[1] * (a.ndim - 1)), a, b)

  return jax.tree.map(pick, new, old)
