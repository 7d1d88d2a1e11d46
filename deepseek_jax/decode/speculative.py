"""Speculative decoding with the MTP module as the draftsman (2412.19437, section 5.4.3).

The module guesses the next tokens, one from the main model's last state and further ones from its
own; the main model then computes all of them in one pass and keeps those it would have chosen
itself. A token is chosen by its logits and its counter-based key alone, and so is its guess, from
the module's logits and the same key: an accepted guess is the very token that plain decoding would
have sampled, at any temperature.

Local axis letters: W the tokens of one pass, a sampled one and then K guesses.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from deepseek_jax.decode.rows import Rows
from deepseek_jax.decode.sampling import sample_token, token_keys
from deepseek_jax.decode.step import Emitted, nothing_emitted
from deepseek_jax.model.cache import DecodeCache, extend, map_slots, squeeze, unsqueeze
from deepseek_jax.model.transformer import Transformer, forward, head_DV, mtp_draft
from deepseek_jax.ops.oriented import product
from deepseek_jax.types import Span, Weights

Carry = tuple[Rows, DecodeCache, jax.Array, Emitted]


@functools.partial(jax.jit, static_argnames=("model", "drafts"), donate_argnames=("cache",))
def first_drafts(
  model: Transformer,
  weights: Weights,
  rows: Rows,
  cache: DecodeCache,
  drafts_BK: jax.Array,
  hidden_BD: jax.Array,
  entering_B: jax.Array,
  *,
  drafts: int,
) -> tuple[DecodeCache, jax.Array]:
  """The guesses of rows that have just got their first token; other rows keep theirs."""
  slot, seen_B1 = cache.index - 1, entering_B[:, None]
  first, held = rows.token_B[:, None], cache.layers[-1]
  cache, new_BK = _draft(
    model, weights, rows, cache, hidden_BD[:, None], first, slot, seen_B1, drafts
  )

  def restore(axis: int, new: jax.Array, old: jax.Array) -> jax.Array:
    """What rows that did not enter had in the slot."""
    mine_B = entering_B.reshape(-1, *[1] * (new.ndim - 1))
    new_slot, old_slot = (jax.lax.dynamic_slice_in_dim(x, slot, 1, axis) for x in (new, old))
    kept = jnp.where(mine_B, new_slot, old_slot)
    return jax.lax.dynamic_update_slice_in_dim(new, kept, slot, axis)

  *main, entry = cache.layers
  entry = map_slots(restore, entry, held)
  cache = dataclasses.replace(cache, layers=(*main, entry))
  return cache, jnp.where(seen_B1, new_BK, drafts_BK)


@functools.partial(
  jax.jit, static_argnames=("model", "steps", "drafts"), donate_argnames=("cache",)
)
def speculate(
  model: Transformer,
  weights: Weights,
  rows: Rows,
  cache: DecodeCache,
  drafts_BK: jax.Array,
  limit: jax.Array,
  idle: jax.Array,
  *,
  steps: int,
  drafts: int,
) -> tuple[Rows, DecodeCache, jax.Array, Emitted]:
  """`step.decode`, with up to K + 1 tokens per row and step, of which `emitted` has as many rows.

  The cache must have `limit` * (K + 1) free slots.
  """
  window = drafts + 1
  emitted = nothing_emitted(model, steps * window, len(rows.token_B))

  def goes_on(carry: Carry) -> jax.Array:
    rows, _, _, emitted = carry
    return (emitted.steps < limit) & ((~rows.live_B).sum() < idle)

  def advance(carry: Carry) -> Carry:
    rows, cache, drafts_BK, emitted = carry
    cache = unsqueeze(cache)
    start, position_B, live_B = cache.index, rows.position_B, rows.live_B
    tokens_BW = jnp.concatenate([rows.token_B[:, None], drafts_BK], axis=1)
    positions_BW = position_B[:, None] + jnp.arange(window)
    segments_BW = jnp.broadcast_to(live_B[:, None], tokens_BW.shape).astype(jnp.int32)
    out = forward(model, weights, tokens_BW, positions_BW, segments_BW, cache, absorbed=True)
    assert out.cache is not None  # for one went in
    rows, chosen_BW, logprobs_BW, seen_BW = _verify(model, weights, rows, out.hidden_BTD, drafts_BK)
    experts_LBWA = jnp.where(seen_BW[:, :, None], out.routing.experts_LBTA, -1)
    emitted = _record(emitted, chosen_BW, logprobs_BW, experts_LBWA)
    taken = seen_BW.sum(axis=1).max()
    kept = Span(positions_BW, jnp.where(seen_BW, 1, -1))
    cache = dataclasses.replace(
      out.cache, span=extend(out.cache.span, kept, start), index=start + taken
    )
    cache, drafts_BK = _draft(
      model, weights, rows, cache, out.hidden_BTD, chosen_BW, start, seen_BW, drafts
    )
    return rows, squeeze(cache), drafts_BK, emitted

  carry = rows, squeeze(cache), drafts_BK, emitted
  rows, cache, drafts_BK, emitted = jax.lax.while_loop(goes_on, advance, carry)
  return rows, unsqueeze(cache), drafts_BK, emitted


def _verify(
  model: Transformer, weights: Weights, rows: Rows, hidden_BWD: jax.Array, drafts_BK: jax.Array
) -> tuple[Rows, jax.Array, jax.Array, jax.Array]:
  """The rows as far as the guesses were right.

  Also the tokens chosen after each of the W, their log-probabilities, and which of the W stay:
  those before which no guess was wrong and no row ended; -1 and 0 for the others.
  """
  B, W, _ = hidden_BWD.shape
  logits_BWV = product(hidden_BWD, head_DV(model, weights), jnp.float32)
  count_BW = rows.count_B[:, None] + jnp.arange(W)
  keys = jax.random.wrap_key_data(jnp.repeat(rows.keys_BW, W, axis=0))
  rule = jax.tree.map(lambda x: jnp.repeat(x, W), rows.rule)
  logits = logits_BWV.reshape(B * W, -1)
  token, logprob = sample_token(logits, token_keys(keys, count_BW.reshape(-1)), rule)
  token_BW, logprob_BW = token.reshape(B, W), logprob.reshape(B, W)
  stops_BW = (token_BW[:, :, None] == rows.stop_BK[:, None]).any(axis=-1)
  ends_BW = stops_BW | (count_BW + 1 >= rows.limit_B[:, None])
  goes_on_BK = (token_BW[:, :-1] == drafts_BK) & ~ends_BW[:, :-1]
  right_BK = jnp.cumprod(goes_on_BK, axis=1).astype(bool)
  seen_BW = jnp.concatenate([rows.live_B[:, None], rows.live_B[:, None] & right_BK], axis=1)
  taken_B = seen_BW.sum(axis=1, dtype=jnp.int32)
  last_B1 = jnp.maximum(taken_B - 1, 0)[:, None]
  last_B = jnp.take_along_axis(token_BW, last_B1, axis=1)[:, 0]
  rows = dataclasses.replace(
    rows,
    token_B=jnp.where(rows.live_B, last_B, rows.token_B),
    position_B=rows.position_B + taken_B,
    count_B=rows.count_B + taken_B,
    live_B=rows.live_B & ~(seen_BW & ends_BW).any(axis=1),
  )
  return rows, jnp.where(seen_BW, token_BW, -1), jnp.where(seen_BW, logprob_BW, 0), seen_BW


def _draft(
  model: Transformer,
  weights: Weights,
  rows: Rows,
  cache: DecodeCache,
  hidden_BWD: jax.Array,
  next_BW: jax.Array,
  start: jax.Array,
  seen_BW: jax.Array,
  drafts: int,
) -> tuple[DecodeCache, jax.Array]:
  """Guesses K tokens after each row's last, from the states of its tokens since the last time.

  They lie in slots `start` and on where `seen_BW`; the others of the W slots hold nothing of use.
  """
  *main, old = cache.layers
  cut = functools.partial(
    jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=seen_BW.shape[1], axis=1
  )
  hidden_BWD, normed_BWD, entry = mtp_draft(
    model,
    weights,
    hidden_BWD,
    jnp.maximum(next_BW, 0),
    jax.tree.map(cut, cache.span),
    old,
    cache.span,
    start,
  )
  last_B11 = jnp.maximum(seen_BW.sum(axis=1) - 1, 0)[:, None, None]
  hidden_B1D = jnp.take_along_axis(hidden_BWD, last_B11, axis=1)
  normed_B1D = jnp.take_along_axis(normed_BWD, last_B11, axis=1)
  head, keys_B = head_DV(model, weights), jax.random.wrap_key_data(rows.keys_BW)
  guesses: list[jax.Array] = []
  span, scratch = cache.span, entry
  for k in range(drafts):
    if k:  # the module after itself; what it writes lies where the next pass will write
      slot = cache.index + k - 1
      own = Span((rows.position_B + k - 1)[:, None], jnp.ones_like(last_B11[:, :, 0]))
      span = extend(span, own, slot)
      hidden_B1D, normed_B1D, scratch = mtp_draft(
        model, weights, hidden_B1D, guesses[-1][:, None], own, scratch, span, slot
      )
    logits_BV = product(normed_B1D[:, 0], head, jnp.float32)
    guess_B, _ = sample_token(logits_BV, token_keys(keys_B, rows.count_B + k), rows.rule)
    guesses.append(guess_B)
  return dataclasses.replace(cache, layers=(*main, scratch)), jnp.stack(guesses, axis=1)


def _record(
  emitted: Emitted, tokens_BW: jax.Array, logprobs_BW: jax.Array, experts_LBWA: jax.Array
) -> Emitted:
  """What a pass gave, in its W rows of `emitted`."""
  at = emitted.steps * tokens_BW.shape[1]
  experts_WLBA = jnp.moveaxis(experts_LBWA, 2, 0).astype(emitted.experts_TLBA.dtype)
  put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=at, axis=0)
  return Emitted(
    put(emitted.tokens_TB, tokens_BW.T),
    put(emitted.logprobs_TB, logprobs_BW.T),
    put(emitted.experts_TLBA, experts_WLBA),
    emitted.steps + 1,
  )
