"""The cache of a decoding model: an argument and a result, never hidden state."""

import flax.struct
import jax
import jax.numpy as jnp

from deepseek_jax.config import MLAConfig, ModelConfig
from deepseek_jax.types import Span


@flax.struct.dataclass
class DecodeCache:
  """Keys and values of `slots` past tokens per row.

  `layers` holds one entry per stack of layers ("dense", "moe"), each a dict of arrays with a
  leading layer axis: MLA keeps the normed latent `latent_LBSC` and the rotated shared key
  `rope_LBSR`; grouped-query attention keeps `k_LBGSK` and `v_LBGSK`. Every row writes the same
  slots, so prompts are padded on the left; a slot not yet written has segment -1.
  """

  layers: dict[str, dict[str, jax.Array]]
  span: Span
  index: jax.Array  # int32 scalar: the next slot to write


def init_cache(
  config: ModelConfig, batch: int, slots: int, dtype: jnp.dtype = jnp.float32
) -> DecodeCache:
  """An empty cache of `slots` tokens for each of `batch` rows."""
  stacks = {"dense": config.dense_layers, "moe": config.expert_layers}
  layers = {
    name: _layer_arrays(config, count, batch, slots, dtype)
    for name, count in stacks.items()
    if count
  }
  span = Span(jnp.zeros((batch, slots), jnp.int32), jnp.full((batch, slots), -1, jnp.int32))
  return DecodeCache(layers, span, jnp.zeros((), jnp.int32))


def _layer_arrays(config: ModelConfig, count: int, batch: int, slots: int, dtype):
  """The empty arrays of one stack of `count` layers."""
  attention = config.attention
  if isinstance(attention, MLAConfig):
    return {
      "latent_LBSC": jnp.zeros((count, batch, slots, attention.kv_latent), dtype),
      "rope_LBSR": jnp.zeros((count, batch, slots, attention.rope_dim), dtype),
    }
  shape = (count, batch, attention.kv_heads, slots, attention.head_dim)
  return {"k_LBGSK": jnp.zeros(shape, dtype), "v_LBGSK": jnp.zeros(shape, dtype)}


def write(old: jax.Array, new: jax.Array, index: jax.Array, axis: int) -> jax.Array:
  """`old` with `new` at slots [index, index + T) of `axis`."""
  return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), index, axis)


def cache_after(
  cache: DecodeCache, new: dict[str, dict[str, jax.Array]], span: Span, count: int
) -> DecodeCache:
  """The cache with all layers' entries for `count` new tokens written in one go.

  The scan over layers gives out only these entries. Were each layer to give out its whole cache,
  a decoding step would copy all of it several times over, which cost more than the attention.
  """
  layers = {
    stack: {
      name: write(x, new[stack][name], cache.index, name.rpartition("_")[2].index("S"))
      for name, x in arrays.items()
    }
    for stack, arrays in cache.layers.items()
  }
  return DecodeCache(layers, span, cache.index + count)
