"""Arrays over the devices of several processes: putting them there, and reading them whole."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def place(tree: Any, shardings: Any) -> Any:
  """`jax.device_put`, also onto devices of other processes.

  Every process has all of the host's arrays, and puts what its own devices hold.
  """
  return jax.tree.map(_placed, tree, shardings)


def _placed(x: Any, sharding: NamedSharding) -> jax.Array:
  if sharding.is_fully_addressable or (isinstance(x, jax.Array) and not x.is_fully_addressable):
    return jax.device_put(x, sharding)
  held = np.asarray(x)
  return jax.make_array_from_callback(held.shape, sharding, lambda index: held[index])


def read(tree: Any) -> Any:
  """`jax.device_get`, also of arrays on devices of other processes; then all have to read."""
  return jax.device_get(jax.tree.map(_readable, tree))


def _readable(x: Any) -> Any:
  """The array, copied to all of its devices where this process could not read it."""
  if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
    return x
  assert isinstance(x.sharding, NamedSharding)
  return _same(x, NamedSharding(x.sharding.mesh, PartitionSpec()))


@functools.partial(jax.jit, static_argnames="where")
def _same(x: jax.Array, where: NamedSharding) -> jax.Array:
  return jax.lax.with_sharding_constraint(x, where)


def own_slice(sharding: NamedSharding, shape: Sequence[int], axis: int) -> list[int]:
  """Which places of an axis lie on this process's devices, ascending."""
  held = sharding.addressable_devices_indices_map(tuple(shape)).values()
  each = (range(shape[axis])[index[axis]] for index in held if index is not None)
  return sorted({place for places in each for place in places})
