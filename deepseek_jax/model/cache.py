"""The cache of a decoding model: an argument and a result, never hidden state."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from deepseek_jax.config import MLAConfig, ModelConfig
from deepseek_jax.types import Span

Entry = dict[str, jax.Array]  # one layer's arrays


@flax.struct.dataclass
class DecodeCache:
  """Keys and values of `slots` past tokens per row.

  `layers` holds an entry per layer: MLA keeps the normed latent and behind it the rotated shared
  key, `kv_BSX`, which is 576 numbers per token and layer in V3; grouped-query attention keeps
  `k_BGKS` and `v_BGSU`, as the products of a decoding step read them. Every row writes the same
  slots, so prompts are padded on the left; what a row may see is told by `span`, in which a slot
  not yet written has segment -1. Layers are arrays of their own, so that a step writes in place and
  copies nothing.
  """

  layers: tuple[Entry, ...]
  span: Span
  index: jax.Array  # int32 scalar: the next slot to write


def init_cache(
  config: ModelConfig, batch: int, slots: int, dtype: jnp.dtype = jnp.float32, layers: int = 0
) -> DecodeCache:
  """An empty cache of `slots` tokens for each of `batch` rows; of `layers` layers if not all."""
  entries = tuple(_entry(config, batch, slots, dtype) for _ in range(layers or config.layers))
  span = Span(jnp.zeros((batch, slots), jnp.int32), jnp.full((batch, slots), -1, jnp.int32))
  return DecodeCache(entries, span, jnp.zeros((), jnp.int32))


def _entry(config: ModelConfig, batch: int, slots: int, dtype: jnp.dtype) -> Entry:
  attention = config.attention
  if isinstance(attention, MLAConfig):
    width = attention.kv_latent + attention.rope_dim
    return {"kv_BSX": jnp.zeros((batch, slots, width), dtype)}
  heads, width = attention.kv_heads, attention.head_dim
  keys, values = (batch, heads, width, slots), (batch, heads, slots, width)
  return {"k_BGKS": jnp.zeros(keys, dtype), "v_BGSU": jnp.zeros(values, dtype)}


def map_slots(change: Callable[..., jax.Array], *entries: Entry) -> Entry:
  """`change(axis, x, ...)` of each array of the entries, whose slots lie along that axis."""
  first = entries[0]
  return {name: change(_slots(name), *(entry[name] for entry in entries)) for name in first}


def _slots(name: str) -> int:
  return name.rsplit("_", 1)[1].index("S")


def write(entry: Entry, new: Entry, index: jax.Array) -> Entry:
  """The entry with `new` tokens at slots [index, index + T).

  A single row is written without its axis, as the products that read it have none either: XLA on a
  CPU would write once for them and once for what is kept, with copies of the old entry for both.
  """

  def put(axis: int, old: jax.Array, x: jax.Array) -> jax.Array:
    x = x.astype(old.dtype)
    if len(old) == 1:
      return jax.lax.dynamic_update_slice_in_dim(old[0], x[0], index, axis - 1)[None]
    return jax.lax.dynamic_update_slice_in_dim(old, x, index, axis)

  return map_slots(put, entry, new)


def squeeze(cache: DecodeCache) -> DecodeCache:
  """As loops carry the cache: of a single row, its layers' entries without that axis."""
  if len(cache.span.positions_BT) > 1:
    return cache
  return dataclasses.replace(cache, layers=jax.tree.map(lambda x: x[0], cache.layers))


def unsqueeze(cache: DecodeCache) -> DecodeCache:
  """The inverse of `squeeze`."""
  if len(cache.span.positions_BT) > 1:
    return cache
  return dataclasses.replace(cache, layers=jax.tree.map(lambda x: x[None], cache.layers))


def extend(span: Span, new: Span, index: jax.Array) -> Span:
  """The cache's span with the new tokens' at slots [index, index + T)."""
  put = jax.lax.dynamic_update_slice_in_dim
  return jax.tree.map(lambda old, x: put(old, x, index, 1), span, new)
