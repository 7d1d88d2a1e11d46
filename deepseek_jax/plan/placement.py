"""Where a model's arrays lie on a mesh that need not exist: what `sharding` says, in bytes."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import AbstractMesh

from deepseek_jax.sharding import AXES, MESH_AXIS, MeshConfig, state_shardings

_STACKS = ("_EDF", "_EFD")  # of routed experts, which are multiplied where they lie
_FLOAT32 = ("norm", "router", "bias")  # multiplied in float32 whatever the compute dtype


@dataclasses.dataclass(frozen=True)
class Placed:
  """An array on a mesh."""

  path: str
  size: int  # of the whole array
  shard: int  # of a device's part
  item: int  # bytes of a number as it is kept
  axes: tuple[str, ...]  # mesh axes that split it
  layers: int  # stacked in its first axis; 1 for what is used by itself

  @property
  def experts(self) -> bool:
    """Whether these are routed experts' matrices."""
    return self.path.endswith(_STACKS)

  @property
  def adapter(self) -> bool:
    """Whether it is of an adapter (model/adapters.py)."""
    return self.path.endswith(("/a_IY", "/b_YO"))

  @property
  def gathered(self) -> tuple[str, ...]:
    """The mesh axes over which it is gathered for use."""
    return tuple(axis for axis in self.axes if axis not in self.in_place)

  @property
  def in_place(self) -> tuple[str, ...]:
    """Mesh axes over which it is used as it lies: heads and features, and experts."""
    fixed = {MESH_AXIS[letter] for letter in "HFV"} | ({MESH_AXIS["E"]} if self.experts else set())
    return tuple(axis for axis in self.axes if axis in fixed)

  def used(self, mesh: MeshConfig, item: int) -> float:
    """Bytes of it on a device while it is used, in a compute dtype of `item` bytes."""
    wide = 4 if any(word in self.path.rpartition("/")[2] for word in _FLOAT32) else item
    return self.size / ways(mesh, self.in_place) * wide


def abstract_mesh(mesh: MeshConfig) -> Any:
  """The mesh without devices."""
  return AbstractMesh(tuple(getattr(mesh, axis) for axis in AXES), AXES)


def held(mesh: MeshConfig, tree: Any) -> int:
  """Bytes of a pytree of arrays or shapes on each device of the mesh."""
  return sum(
    math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf, where in _pairs(mesh, tree)
  )


def placed(mesh: MeshConfig, params: Any) -> list[Placed]:
  """Every parameter of a model, placed."""
  found = []
  paths = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), (_, where) in zip(paths, _pairs(mesh, params), strict=True):
    name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
    axes = [axis for entry in where.spec for axis in _entry(entry)]
    stacked = name.startswith(("dense/", "moe/"))
    found.append(
      Placed(
        path=name,
        size=math.prod(leaf.shape),
        shard=math.prod(where.shard_shape(leaf.shape)),
        item=leaf.dtype.itemsize,
        axes=tuple(axis for axis in axes if getattr(mesh, axis) > 1),
        layers=leaf.shape[0] if stacked else 1,
      )
    )
  return found


def ways(mesh: MeshConfig, axes: tuple[str, ...]) -> int:
  """Into how many parts these mesh axes split."""
  return math.prod(getattr(mesh, axis) for axis in axes)


def exchanges(mesh: MeshConfig) -> bool:
  """Whether tokens travel to their experts."""
  return mesh.expert > 1


def _pairs(mesh: MeshConfig, tree: Any) -> Iterator[tuple[Any, jax.sharding.NamedSharding]]:
  where = state_shardings(abstract_mesh(mesh), tree)
  return zip(jax.tree.leaves(tree), jax.tree.leaves(where), strict=True)


def _entry(entry: Any) -> tuple[str, ...]:
  return (entry,) if isinstance(entry, str) else tuple(entry or ())
