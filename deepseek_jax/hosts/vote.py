"""A question that every step asks all processes, answered without waiting for the slowest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deepseek_jax.hosts import group


class Vote:
  """Whether any process says yes; alone, this process's own answer.

  The votes of a call are added up on the devices, behind what these have to do, and read by the
  next call. So a yes counts one call later, at the same call on all processes.

  Attributes:
    decided: whether a yes has counted.
  """

  def __init__(self) -> None:
    self.decided = False
    self._cast: jax.Array | None = None

  def by_any(self, yes: bool) -> bool:
    """Casts this process's vote, and returns what was decided; all processes must call it."""
    if not group.several():
      self.decided = yes
      return yes
    if self._cast is not None:
      self.decided |= bool(np.asarray(self._cast))
    split = NamedSharding(_all_devices(), PartitionSpec("all"))
    votes = np.full(jax.device_count(), yes, np.int32)
    self._cast = _largest(jax.make_array_from_callback(votes.shape, split, lambda i: votes[i]))
    return self.decided


@functools.cache
def _all_devices() -> Mesh:
  return Mesh(np.array(jax.devices()), ("all",))


@jax.jit
def _largest(votes: jax.Array) -> jax.Array:
  everywhere = NamedSharding(_all_devices(), PartitionSpec())
  return jax.lax.with_sharding_constraint(jnp.max(votes), everywhere)
