"""Leaves that are allocated once, on the mesh, and filled from a checkpoint part by part."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from deepseek_jax.hosts import arrays
from deepseek_jax.ops.fp8 import E4M3
from deepseek_jax.sharding import state_shardings

# Narrow floats are filled as the integers of their bits: XLA on a CPU would widen the whole leaf
# to write one part of it.
_BITS: dict[np.dtype, np.dtype] = {
  E4M3: np.dtype(np.uint8),
  np.dtype(ml_dtypes.bfloat16): np.dtype(np.uint16),
}


class Leaf:
  """An array of zeros on the mesh (None: on the default device), to be filled and then taken."""

  def __init__(self, shape: Sequence[int], dtype: np.dtype, sharding: NamedSharding | None):
    self._dtype, self._bits = dtype, _BITS.get(dtype, dtype)
    self._sharding = sharding
    self._array = jnp.zeros(shape, self._bits, device=sharding)

  def fill(self, index: tuple[int, ...], part: np.ndarray) -> None:
    """Writes what lies at `index` of the leading axes; returns once it is there."""
    if part.dtype == self._dtype:
      part = part.view(self._bits)
    if self._sharding is not None:
      entries = _entries(self._sharding, self._array.ndim)[len(index) :]
      part = arrays.place(part, NamedSharding(self._sharding.mesh, P(*entries)))
    at = tuple(np.int32(i) for i in index)
    self._array = _write(self._array, part, at, self._sharding)
    self._array.block_until_ready()  # else parts would queue up in memory

  def take(self) -> jax.Array:
    """The filled array; the leaf is empty afterwards."""
    array, self._array = self._array, jnp.zeros(0)
    return array if self._bits == self._dtype else _reread(array, self._dtype)


def leaf_on_mesh(name: str, shape: Sequence[int], dtype: np.dtype, mesh: Mesh | None) -> Leaf:
  """A leaf called `name`, placed as `sharding.state_shardings` places it."""
  if mesh is None:
    return Leaf(shape, dtype, None)
  struct = jax.ShapeDtypeStruct(shape, dtype)
  return Leaf(shape, dtype, state_shardings(mesh, {name: struct})[name])


def _entries(sharding: NamedSharding, ndim: int) -> tuple:
  """The mesh axes of each of `ndim` axes."""
  return (*sharding.spec, *(None,) * (ndim - len(sharding.spec)))


@functools.partial(jax.jit, static_argnames="sharding", donate_argnums=0)
def _write(
  leaf: jax.Array, part: jax.Array, index: tuple, sharding: NamedSharding | None
) -> jax.Array:
  """The leaf with the part at `index`, in place."""
  part = part.astype(leaf.dtype)[(None,) * len(index)]
  if sharding is None:
    return _update(leaf, part, index, jnp.bool_(True))
  entries = _entries(sharding, leaf.ndim)
  split = entries[: len(index)]

  def own(leaf: jax.Array, part: jax.Array, index: tuple) -> jax.Array:
    """Each device writes if the index lies in its share of the leading axes."""
    local, inside = [], jnp.bool_(True)
    for i, axes, size in zip(index, split, leaf.shape, strict=False):
      at = i if axes is None else i - jax.lax.axis_index(axes) * size
      local.append(at)
      inside &= (at >= 0) & (at < size)
    return _update(leaf, part, tuple(local), inside)

  part_spec = P(*(None,) * len(index), *entries[len(index) :])
  return jax.shard_map(
    own,
    mesh=sharding.mesh,
    in_specs=(P(*entries), part_spec, P()),
    out_specs=P(*entries),
    check_vma=False,
  )(leaf, part, index)


def _update(leaf: jax.Array, part: jax.Array, index: tuple, here: jax.Array) -> jax.Array:
  start = (*index, *(0,) * (leaf.ndim - len(index)))
  old = jax.lax.dynamic_slice(leaf, start, part.shape)
  return jax.lax.dynamic_update_slice(leaf, jnp.where(here, part, old), start)


def _reread(array: jax.Array, dtype: np.dtype) -> jax.Array:
  """The bits of `array` as `dtype`, without a copy where the host can see them."""
  sharding = array.sharding
  if any(device.platform != "cpu" for device in array.devices()):
    read = functools.partial(jax.lax.bitcast_convert_type, new_dtype=dtype)
    return jax.jit(read, donate_argnums=0, out_shardings=sharding)(array)
  if isinstance(sharding, SingleDeviceSharding):
    return jax.device_put(np.asarray(array).view(dtype))
  shards = [
    jax.device_put(np.asarray(shard.data).view(dtype), shard.device)
    for shard in array.addressable_shards
  ]
  return jax.make_array_from_single_device_arrays(array.shape, sharding, shards)
