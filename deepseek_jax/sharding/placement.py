"""Where every array lies on a mesh, by the axis letters that end its name and one table."""

import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from deepseek_jax.config import ConfigError, require
from deepseek_jax.hosts import arrays, group
from deepseek_jax.sharding.mesh import ROWS, ROWS_TOLD, SPLIT, TOKENS, MeshConfig, make_mesh

# Axis letter of an array's name -> mesh axis; letters not listed stay whole. Where two letters of
# one array name the same mesh axis the first has it: gate_EDF is split by `expert` on E and so not
# on D, q_down_DQ on D and not on Q, unless Q gives whole tiles where D does not (`placement`).
MESH_AXIS: dict[str, str | tuple[str, ...]] = {
  "B": ROWS,
  "N": TOKENS,
  "T": "context",
  "D": SPLIT,
  "Q": SPLIT,
  "C": SPLIT,
  "E": "expert",
  "H": "tensor",
  "G": "tensor",
  "F": "tensor",
  "V": "tensor",
}

_SUFFIX = re.compile(r"(?:^|_)([A-Z]+)$")


def parameter_spec(name: str, ndim: int) -> P:
  """Where the table puts an array called `name` (or a path ending in it) of `ndim` axes.

  Axes in front of the named ones (stacked layers, micro-batches) stay whole, as do arrays without
  axis letters (counters, keys) and vectors of weights, which cost more to gather than to keep.
  """
  letters = _letters(name)
  if ndim == 0 or not letters or (len(letters) == 1 and letters not in "BN"):
    return P()
  if ndim < len(letters):
    raise ValueError(f"{name} has {ndim} axes, but its name says {len(letters)}.")
  entries: list[str | tuple[str, ...] | None] = [None] * (ndim - len(letters))
  taken: set[str] = set()
  of_tokens = bool(set(letters) & {"B", "N"})  # whose features stay whole
  for letter in letters:
    wanted = MESH_AXIS.get(letter)
    if wanted == SPLIT and of_tokens:
      wanted = None
    axes = tuple(axis for axis in axes_of(wanted) if axis not in taken)
    entries.append(entry_of(axes))
    taken |= set(axes)
  return P(*entries)


def state_shardings(mesh: Mesh, abstract_tree: Any) -> Any:
  """The NamedSharding of every leaf of a pytree of arrays (or ShapeDtypeStructs).

  A leaf goes by the innermost name on its path that ends in axis letters, so that anything kept
  per parameter (moments, averages) lies where its parameter does.
  """

  def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    shape = np.shape(leaf)
    names = [str(_key_name(key)) for key in reversed(path)]
    name = next((n for n in names if _letters(n)), "")
    return NamedSharding(mesh, placement(mesh, name, shape))

  return jax.tree_util.tree_map_with_path(place, abstract_tree)


def row_devices(mesh: Mesh | None) -> int:
  """How many ways the rows of a batch are split."""
  return 1 if mesh is None else ways(mesh, ROWS)


def own_rows(config: MeshConfig, count: int) -> list[int]:
  """Which of a batch's `count` rows lie on devices of this process; alone, all."""
  if not group.several():
    return list(range(count))
  return arrays.own_slice(NamedSharding(make_mesh(config), P(ROWS)), (count,), 0)


def shard_batch(mesh: Mesh | None, batch: Any) -> Any:
  """Puts a host batch on the mesh, its rows split; leading micro-batch axes stay whole.

  Raises ConfigError where the rows or their tokens do not divide by the mesh axes that split them.
  """
  if mesh is None:
    return jax.device_put(batch)
  rows = row_devices(mesh)
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    name = str(_key_name(path[-1])) if path else ""
    letters = _letters(name)
    sizes = dict(zip(reversed(letters), reversed(np.shape(leaf)), strict=False))
    count, length, context = sizes.get("B", 0), sizes.get("T", 0), mesh.shape["context"]
    require(
      count % rows == 0, f"the batch has {count} rows; they must divide by {ROWS_TOLD}, {rows}."
    )
    require(
      length % context == 0,
      f"rows have {length} tokens; they must divide by mesh.context, {context}.",
    )
  return arrays.place(batch, state_shardings(mesh, batch))


def init_sharded(fn: Callable[..., Any], mesh: Mesh | None, *args: Any) -> Any:
  """`fn(*args)` with its result created in place, shard by shard, never whole on one device."""
  if mesh is None:
    return jax.jit(fn)(*args)
  shardings = state_shardings(mesh, jax.eval_shape(fn, *args))
  return jax.jit(fn, out_shardings=shardings)(*args)


def constrain_rows(mesh: Mesh | None, x_BTD: jax.Array) -> jax.Array:
  """Keeps an activation's rows and tokens split over their mesh axes, and its features whole.

  Without it XLA may prefer to move activations to where the weights of a layer are split.
  """
  if mesh is None:
    return x_BTD
  return jax.lax.with_sharding_constraint(x_BTD, NamedSharding(mesh, tokens_spec(mesh, x_BTD)))


def tokens_spec(mesh: Mesh, x_BT: jax.Array) -> P:
  """Where rows and tokens of an activation [B, T, ...] lie."""
  B, T = x_BT.shape[:2]
  return P(*(entry_of(dividing(mesh, axes, n)) for axes, n in ((ROWS, B), (("context",), T))))


def splits_tokens(mesh: Mesh | None, length: int) -> bool:
  """Whether rows of this many tokens lie on several devices."""
  return mesh is not None and mesh.shape["context"] > 1 and length % mesh.shape["context"] == 0


def attention_split(mesh: Mesh | None, rows: int, heads: int) -> tuple[int, int]:
  """Over how many devices the table splits the rows and the heads of an attention's queries."""
  if mesh is None:
    return 1, 1
  spec = placement(mesh, "q_BTHK", (rows, 1, heads, 1))
  return ways(mesh, spec[0]), ways(mesh, spec[2])


def _letters(name: str) -> str:
  """The axis letters that end `name`, or nothing."""
  found = _SUFFIX.search(name)
  return found.group(1) if found else ""


def _key_name(key: Any) -> Any:
  """The name in one step of a pytree path: a dict key, a field or an index."""
  for field in ("key", "name", "idx"):
    if hasattr(key, field):
      return getattr(key, field)
  return key


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The mesh axes in an entry of a PartitionSpec."""
  return (entry,) if isinstance(entry, str) else (entry or ())


def entry_of(axes: tuple[str, ...]) -> str | tuple[str, ...] | None:
  """The entry of a PartitionSpec that names these mesh axes."""
  return axes if len(axes) > 1 else axes[0] if axes else None


def ways(mesh: Mesh, entry: str | tuple[str, ...] | None) -> int:
  """How many ways an entry of a PartitionSpec splits an axis."""
  return math.prod(mesh.shape[axis] for axis in axes_of(entry))


def dividing(mesh: Mesh, axes: tuple[str, ...], size: int) -> tuple[str, ...]:
  """Those of the mesh axes, next to one another, that split an axis of `size` the most ways.

  None of a single device, which splits nothing.
  """
  axes = tuple(axis for axis in axes if mesh.shape[axis] > 1)
  runs = [axes[i:j] for i in range(len(axes)) for j in range(i + 1, len(axes) + 1)]
  able = [run for run in runs if size % ways(mesh, run) == 0]
  return max(able, key=functools.partial(ways, mesh), default=())


def placement(mesh: Mesh, name: str, shape: tuple[int, ...]) -> P:
  """Where an array called `name` lies: `parameter_spec` without mesh axes that do not divide its
  shape, a weight's in whole tiles if they can be.

  ConfigError if it is an expert's that does not divide.
  """
  spec = parameter_spec(name, len(shape))
  letters = _letters(name).rjust(len(shape))
  entries: list[tuple[str, ...]] = []
  for size, entry in zip(shape, spec, strict=False):
    axes = dividing(mesh, axes_of(entry), size)
    if entry == "expert" and not axes and mesh.shape["expert"] > 1:
      raise ConfigError(
        f"{name} holds {size} experts; they must divide by mesh.expert, {mesh.shape['expert']}."
      )
    entries.append(axes)
  taken = [
    a for axes, letter in zip(entries, letters) if MESH_AXIS.get(letter) != SPLIT for a in axes
  ]
  free = tuple(axis for axis in SPLIT if axis not in taken and mesh.shape[axis] > 1)
  own = [dim for dim, letter in enumerate(letters) if MESH_AXIS.get(letter) == SPLIT]
  if free and any(spec[dim] for dim in own if dim < len(spec)):
    fixed = [() if dim in own else axes for dim, axes in enumerate(entries)]
    others = [dim for dim, letter in enumerate(letters) if letter in _ALSO]
    entries = _in_tiles(mesh, fixed, free, shape, own + others)
  return P(*(entry_of(axes) for axes in entries))


_ALSO = "HGFVW"  # letters of weights that SPLIT may split where D, Q or C have no whole tiles
_LANES, _SUBLANES = 128, 16  # of a tile of bfloat16 on a TPU: the last axis, and that before it
_PIECEMEAL = 16  # parts of tiles, which XLA is slow to gather, only for as many times less memory


def _in_tiles(
  mesh: Mesh,
  fixed: list[tuple[str, ...]],
  free: tuple[str, ...],
  shape: tuple[int, ...],
  dims: list[int],
) -> list[tuple[str, ...]]:
  """Splits a weight's `dims` by the `free` mesh axes as well; of equal ways the first dims."""
  tile = (*(1 for _ in shape[:-2]), _SUBLANES, _LANES)[-len(shape) :]
  best, most = fixed, 0.0
  for chosen in itertools.product([*dims, None], repeat=len(free)):
    entries = list(fixed)
    for axis, dim in zip(free, chosen, strict=True):
      if dim is not None:
        entries[dim] = (*entries[dim], axis)
    parts = [ways(mesh, axes) for axes in entries]
    if any(size % n for size, n in zip(shape, parts, strict=True)):
      continue
    split = {dim for dim in chosen if dim is not None}
    whole = all(shape[dim] // parts[dim] % tile[dim] == 0 for dim in split)
    count = math.prod(mesh.shape[axis] for axis, dim in zip(free, chosen) if dim is not None)
    score = 0.0 if count == 1 else count if whole else count / _PIECEMEAL
    if score > most:
      best, most = entries, score
  return best
