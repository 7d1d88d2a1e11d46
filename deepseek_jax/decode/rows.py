"""The state of the decoding loop, and moving its rows about."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepseek_jax.model.cache import DecodeCache
from deepseek_jax.types import Span


class Sampled(NamedTuple):
  """What the loop fills in, X standing for `max_new`; token t of a row is its t-th new one."""

  tokens_BX: jax.Array  # int32, 0 after the end
  logprobs_BX: jax.Array  # float32, of the untempered model; 0 after the end
  lengths_B: jax.Array  # int32, a stop token included
  stopped_B: jax.Array  # bool: ended by a stop token, not by max_new
  experts_LBTA: jax.Array  # chosen experts of every input: padded prompt, then new tokens; or -1


class Rows(NamedTuple):
  """Samples under way; `step` and the cache's index are common to all rows."""

  step: jax.Array  # tokens sampled so far
  prompt_B: jax.Array  # tokens of the prompt
  keys_BX: jax.Array  # uint32: the raw data of each sample's key
  token_B: jax.Array  # sampled last, not yet shown to the model
  done_B: jax.Array
  sampled: Sampled
  cache: DecodeCache


def grow(rows: Rows, slots: int) -> Rows:
  """The rows with a cache of `slots` slots; new ones are unwritten."""

  def extend(name: str, x: jax.Array, fill: int = 0) -> jax.Array:
    axis = name.rpartition("_")[2].index("S")
    widths = [(0, slots - size if i == axis else 0) for i, size in enumerate(x.shape)]
    return jnp.pad(x, widths, constant_values=fill)

  cache = rows.cache
  layers = {
    stack: {name: extend(name, x) for name, x in arrays.items()}
    for stack, arrays in cache.layers.items()
  }
  span = Span(
    extend("positions_BS", cache.span.positions_BT),
    extend("segments_BS", cache.span.segments_BT, fill=-1),
  )
  return rows._replace(cache=DecodeCache(layers, span, cache.index))


def in_groups(rows: Rows, groups: int, run: Callable[[Rows], Sampled]) -> Sampled:
  """Runs groups of equally many rows one after another, the live rows first; gives all samples.

  So a loop that ends with its last live row costs nothing for the groups that hold none.
  """
  size = len(rows.done_B) // groups
  order_B = jnp.argsort(rows.done_B)
  back_B = jnp.argsort(order_B)

  def deal(x: jax.Array, axis: int) -> jax.Array:
    x = jnp.take(x, order_B, axis)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], groups, size, *x.shape[axis + 1 :]), axis, 0)

  def collect(x: jax.Array, axis: int) -> jax.Array:
    x = jnp.moveaxis(x, 0, axis)
    return jnp.take(x.reshape(*x.shape[:axis], groups * size, *x.shape[axis + 2 :]), back_B, axis)

  dealt = _map_rows(deal, rows, lambda x: jnp.broadcast_to(x, groups))
  return _map_sampled(collect, jax.lax.map(run, dealt))


def _map_rows(
  each: Callable[[jax.Array, int], jax.Array], rows: Rows, shared: Callable[[jax.Array], jax.Array]
) -> Rows:
  """`each` of every array and the axis of its rows, `shared` of what rows have in common."""
  cache = rows.cache
  layers, span = jax.tree.map(lambda x: each(x, 1), cache.layers), cache.span
  return Rows(
    step=shared(rows.step),
    prompt_B=each(rows.prompt_B, 0),
    keys_BX=each(rows.keys_BX, 0),
    token_B=each(rows.token_B, 0),
    done_B=each(rows.done_B, 0),
    sampled=_map_sampled(each, rows.sampled),
    cache=DecodeCache(layers, jax.tree.map(lambda x: each(x, 0), span), shared(cache.index)),
  )


def _map_sampled(each: Callable[[jax.Array, int], jax.Array], sampled: Sampled) -> Sampled:
  return Sampled(
    tokens_BX=each(sampled.tokens_BX, 0),
    logprobs_BX=each(sampled.logprobs_BX, 0),
    lengths_B=each(sampled.lengths_B, 0),
    stopped_B=each(sampled.stopped_B, 0),
    experts_LBTA=each(sampled.experts_LBTA, 1),
  )
