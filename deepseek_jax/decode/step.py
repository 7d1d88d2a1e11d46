"""Decoding steps and prefill: the compiled programs of the engine."""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp

from deepseek_jax.decode.rows import Rows, choose
from deepseek_jax.model.cache import DecodeCache, init_cache, squeeze, unsqueeze
from deepseek_jax.model.transformer import Transformer, forward, head_DV, mtp_draft
from deepseek_jax.ops.oriented import product
from deepseek_jax.types import Span, Weights


@flax.struct.dataclass
class Emitted:
  """What a run of steps gave, step by step (T); -1 and 0 where a row gave nothing."""

  tokens_TB: jax.Array  # int32
  logprobs_TB: jax.Array  # float32, of the untempered model
  experts_TLBA: jax.Array  # int8 or int16: met by the token that went in; -1 where none did
  steps: jax.Array  # int32 scalar: how many of the T were taken


def expert_kind(model: Transformer) -> jnp.dtype:
  """The smallest integers that number a model's experts."""
  few = model.config.moe is None or model.config.moe.experts < 128
  return jnp.dtype(jnp.int8 if few else jnp.int16)


def nothing_emitted(model: Transformer, length: int, batch: int) -> Emitted:
  """Room for `length` tokens of each row."""
  config = model.config
  top_k = config.moe.top_k if config.moe and config.expert_layers else 0
  experts_shape = (length, config.expert_layers, batch, top_k)
  return Emitted(
    tokens_TB=jnp.full((length, batch), -1, jnp.int32),
    logprobs_TB=jnp.zeros((length, batch)),
    experts_TLBA=jnp.full(experts_shape, -1, expert_kind(model)),
    steps=jnp.zeros((), jnp.int32),
  )


@functools.partial(jax.jit, static_argnames=("model", "steps"), donate_argnames=("cache",))
def decode(
  model: Transformer,
  weights: Weights,
  rows: Rows,
  cache: DecodeCache,
  limit: jax.Array,
  idle: jax.Array,
  *,
  steps: int,
) -> tuple[Rows, DecodeCache, Emitted]:
  """Up to `limit` steps (at most `steps`), fewer once `idle` rows or more live no longer.

  The cache must have `limit` free slots. Compiles once per number of rows and of slots.
  """
  emitted, head = nothing_emitted(model, steps, len(rows.token_B)), head_DV(model, weights)

  def goes_on(carry: tuple[Rows, DecodeCache, Emitted]) -> jax.Array:
    rows, _, emitted = carry
    return (emitted.steps < limit) & ((~rows.live_B).sum() < idle)

  def advance(carry: tuple[Rows, DecodeCache, Emitted]) -> tuple[Rows, DecodeCache, Emitted]:
    rows, cache, emitted = carry
    cache = unsqueeze(cache)
    live_B, t = rows.live_B, emitted.steps
    token_B1, position_B1 = rows.token_B[:, None], rows.position_B[:, None]
    segment_B1 = live_B.astype(jnp.int32)[:, None]
    out = forward(model, weights, token_B1, position_B1, segment_B1, cache, absorbed=True)
    assert out.cache is not None  # for one went in
    logits_BV = product(out.hidden_BTD[:, 0], head, jnp.float32)
    rows, logprob_B = choose(rows, logits_BV)
    experts_LBA = jnp.where(live_B[:, None], out.routing.experts_LBTA[:, :, 0], -1)
    emitted = Emitted(
      tokens_TB=emitted.tokens_TB.at[t].set(jnp.where(live_B, rows.token_B, -1)),
      logprobs_TB=emitted.logprobs_TB.at[t].set(jnp.where(live_B, logprob_B, 0)),
      experts_TLBA=emitted.experts_TLBA.at[t].set(experts_LBA.astype(emitted.experts_TLBA.dtype)),
      steps=t + 1,
    )
    return rows, squeeze(out.cache), emitted

  carry = rows, squeeze(cache), emitted
  rows, cache, emitted = jax.lax.while_loop(goes_on, advance, carry)
  return rows, unsqueeze(cache), emitted


@functools.partial(jax.jit, static_argnames=("model", "rows", "slots", "drafting"))
def empty_cache(model: Transformer, rows: int, slots: int, drafting: bool = False) -> DecodeCache:
  """A cache with nothing in it, in the compute dtype; `drafting` adds an MTP module's entry."""
  layers = model.config.layers + drafting
  return init_cache(model.config, rows, slots, jnp.dtype(model.compute.dtype), layers)


@functools.partial(jax.jit, static_argnames=("model",), donate_argnames=("cache",))
def prefill(
  model: Transformer,
  weights: Weights,
  cache: DecodeCache,
  tokens_NT: jax.Array,
  next_NT: jax.Array,
  real_NT: jax.Array,
) -> tuple[DecodeCache, jax.Array, jax.Array, jax.Array]:
  """Appends tokens to the prompts in the cache, T slots each of which those not real are padding.

  Returns the cache, the hidden state [N, D] and float32 logits [N, V] after the last slot, and the
  experts met [L, N, T, A], -1 where padded. Long prompts come in several pieces, so that no array
  grows with the square of their length. `next_NT` are the tokens' successors, which a drafting
  module wants; that of a prompt's last token is not known yet, and its entry written later.
  """
  past_N = (cache.span.segments_BT > 0).sum(axis=1, dtype=jnp.int32)
  before_NT = jnp.cumsum(real_NT, axis=1, dtype=jnp.int32) - 1
  positions_NT = jnp.maximum(past_N[:, None] + before_NT, 0)
  span = Span(positions_NT, real_NT.astype(jnp.int32))
  out = forward(model, weights, tokens_NT, span.positions_BT, span.segments_BT, cache)
  assert out.cache is not None  # for one went in
  start, cache = cache.index, out.cache
  for entry in cache.layers[model.config.layers :]:  # of a drafting module, or none
    new = mtp_draft(model, weights, out.hidden_BTD, next_NT, span, entry, cache.span, start)
    cache = dataclasses.replace(cache, layers=(*cache.layers[:-1], new[2]))
  hidden_ND = out.hidden_BTD[:, -1]
  logits_NV = product(hidden_ND, head_DV(model, weights), jnp.float32)
  experts_LNTA = jnp.where(real_NT[:, :, None], out.routing.experts_LBTA, -1)
  return cache, hidden_ND, logits_NV, experts_LNTA.astype(expert_kind(model))
