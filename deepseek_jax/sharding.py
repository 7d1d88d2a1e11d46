"""Meshes, and where every array of the project lies on them.

A mesh has four axes. `data` and `fsdp` split the rows of a batch; `fsdp` also splits weights and
optimiser state (ZeRO-3, 1910.02054); `tensor` splits heads, feed-forwards and the vocabulary
(Megatron, 1909.08053); `expert` splits the experts. XLA places every collective but one: the routed
experts run under shard_map (`sharded_expert_ffn`), where each device computes its own experts on
all tokens of its rows, which are replicated over `expert` and `tensor`, and the results are summed.

An array is placed by the axis letters that end its name (the legend is in `types.py`) and by one
table, `MESH_AXIS`. So parameters, their Adam moments, their EMA, batches and caches need no
annotations of their own. An axis that its mesh axis does not divide stays whole (two key/value
heads on `tensor=4`); only experts must divide, for a device must own whole ones.

What is to come has its place: exchanging tokens instead of replicating them is another body beside
`sharded_expert_ffn` with the same signature; a context axis is a mesh axis for T and S in the
table; a pipeline axis is one for the stacked layer axis, which is the unnamed leading axis here.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from deepseek_jax.config import ConfigError, require
from deepseek_jax.hosts import arrays, group
from deepseek_jax.ops.dispatch import default_capacity, expert_ffn
from deepseek_jax.ops.precision import PLAIN, Precision

AXES = ("data", "fsdp", "expert", "tensor")
ROWS = ("data", "fsdp")

# Axis letter of an array's name -> mesh axis; letters not listed stay whole. Where two letters of
# one array name the same mesh axis the first has it: q_down_DQ is split on D, q_up_QHK on Q.
MESH_AXIS: dict[str, str | tuple[str, ...]] = {
  "B": ROWS,
  "N": ROWS,
  "D": "fsdp",
  "Q": "fsdp",
  "C": "fsdp",
  "E": "expert",
  "H": "tensor",
  "G": "tensor",
  "F": "tensor",
  "V": "tensor",
}

_SUFFIX = re.compile(r"(?:^|_)([A-Z]+)$")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; all ones is a single device."""

  data: int = 1
  fsdp: int = 1
  expert: int = 1
  tensor: int = 1

  def __post_init__(self) -> None:
    for name in AXES:
      value = getattr(self, name)
      require(value > 0, f"mesh.{name} is {value}; it must be positive.")

  @property
  def devices(self) -> int:
    """How many devices the mesh takes."""
    return math.prod(getattr(self, name) for name in AXES)


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
  """The mesh of `config` over `devices`, by default all there are, of all processes.

  All ones takes the first device of a process that is alone; any other mesh must take every
  device, or ConfigError.
  """
  devices = list(jax.devices() if devices is None else devices)
  if config.devices == 1 and not group.several():
    devices = devices[:1]
  sizes = tuple(getattr(config, name) for name in AXES)
  product = " * ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
  require(
    config.devices == len(devices),
    f"mesh is {product} = {config.devices} devices, but there are {len(devices)}; "
    "make the product of its axes equal that.",
  )
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def parameter_spec(name: str, ndim: int) -> P:
  """Where the table puts an array called `name` (or a path ending in it) of `ndim` axes.

  Axes in front of the named ones (stacked layers, micro-batches) stay whole, as do arrays without
  axis letters (counters, keys) and vectors of weights, which cost more to gather than to keep.
  """
  letters = _letters(name)
  if ndim == 0 or not letters or (len(letters) == 1 and MESH_AXIS.get(letters) != ROWS):
    return P()
  if ndim < len(letters):
    raise ValueError(f"{name} has {ndim} axes, but its name says {len(letters)}.")
  entries: list[str | tuple[str, ...] | None] = [None] * (ndim - len(letters))
  taken: set[str] = set()
  for letter in letters:
    entry = MESH_AXIS.get(letter)
    axes = {entry} if isinstance(entry, str) else set(entry or ())
    entries.append(None if axes & taken else entry)
    taken |= axes
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
    return NamedSharding(mesh, _fit(mesh, parameter_spec(name, len(shape)), shape, name))

  return jax.tree_util.tree_map_with_path(place, abstract_tree)


def batch_spec() -> P:
  """Rows of a batch over `data` and `fsdp`; everything else whole."""
  return P(ROWS)


def own_rows(config: MeshConfig, count: int) -> list[int]:
  """Which of a batch's `count` rows lie on devices of this process; alone, all."""
  if not group.several():
    return list(range(count))
  return arrays.own_slice(NamedSharding(make_mesh(config), batch_spec()), (count,), 0)


def shard_batch(mesh: Mesh | None, batch: Any) -> Any:
  """Puts a host batch on the mesh, its rows split; leading micro-batch axes stay whole.

  Raises ConfigError where the rows do not divide by data * fsdp.
  """
  if mesh is None:
    return jax.device_put(batch)
  rows = _size(mesh, ROWS)
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    name = str(_key_name(path[-1])) if path else ""
    letters = _letters(name)
    if "B" in letters:
      count = np.shape(leaf)[letters.index("B") - len(letters)]
      require(
        count % rows == 0,
        f"the batch has {count} rows; they must divide by mesh.data * mesh.fsdp, {rows}.",
      )
  return arrays.place(batch, state_shardings(mesh, batch))


def init_sharded(fn: Callable[..., Any], mesh: Mesh | None, *args: Any) -> Any:
  """`fn(*args)` with its result created in place, shard by shard, never whole on one device."""
  if mesh is None:
    return jax.jit(fn)(*args)
  shardings = state_shardings(mesh, jax.eval_shape(fn, *args))
  return jax.jit(fn, out_shardings=shardings)(*args)


def constrain_rows(mesh: Mesh | None, x: jax.Array) -> jax.Array:
  """Keeps the first axis of an activation split over the rows' mesh axes, and the others whole.

  Without it XLA may prefer to move activations to where the weights of a layer are split.
  """
  if mesh is None:
    return x
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(_row_axes(mesh, x.shape[0]))))


def sharded_expert_ffn(
  mesh: Mesh,
  x_ND: jax.Array,
  weights_NA: jax.Array,
  experts_NA: jax.Array,
  gate_EDF: jax.Array,
  up_EDF: jax.Array,
  down_EFD: jax.Array,
  *,
  implementation: str = "auto",
  precision: Precision = PLAIN,
) -> jax.Array:
  """`ops.dispatch.expert_ffn` over a mesh: own experts on gathered tokens, then a sum.

  Tokens that do not divide by the rows' mesh axes (one row being decoded) are computed by all.
  """
  E, _, F = gate_EDF.shape
  rows = P(_row_axes(mesh, x_ND.shape[0]))
  # The table's placement, but for fsdp: weights are gathered for use, like any others.
  gate = _fit(mesh, P(MESH_AXIS["E"], None, MESH_AXIS["F"]), (E, 1, F), "gate_EDF")
  down = P(gate[0], gate[2], None)
  summed = tuple(axis for axis in (gate[0], gate[2]) if axis is not None)
  local_experts = E // mesh.shape["expert"]

  def own_experts(x_ND, weights_NA, experts_NA, gate_EDF, up_EDF, down_EFD):
    first = jax.lax.axis_index("expert") * local_experts
    y_ND = expert_ffn(
      x_ND,
      weights_NA,
      experts_NA,
      gate_EDF,
      up_EDF,
      down_EFD,
      implementation=implementation,
      precision=precision,
      first_expert=first,
      capacity=default_capacity(*experts_NA.shape, E),  # the router chooses among all of them
    )
    return jax.lax.psum(y_ND, summed)

  # check_vma off: the dispatch may loop over carries that it starts from constants, which the
  # check would refuse. Gradients are right without it; tests hold them against one device.
  return jax.shard_map(
    own_experts,
    mesh=mesh,
    in_specs=(rows, rows, rows, gate, gate, down),
    out_specs=rows,
    check_vma=False,
  )(x_ND, weights_NA, experts_NA, gate_EDF, up_EDF, down_EFD)


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


def _size(mesh: Mesh, entry: str | tuple[str, ...] | None) -> int:
  """How many ways an entry of a PartitionSpec splits an axis."""
  axes = (entry,) if isinstance(entry, str) else (entry or ())
  return math.prod(mesh.shape[axis] for axis in axes)


def _row_axes(mesh: Mesh, rows: int) -> tuple[str, ...] | None:
  """The mesh axes that split `rows` rows, or none where they do not divide."""
  return ROWS if rows % _size(mesh, ROWS) == 0 else None


def _fit(mesh: Mesh, spec: P, shape: tuple[int, ...], name: str) -> P:
  """`spec` without the mesh axes that do not divide `shape`; ConfigError if that is an expert's."""
  entries = []
  for size, entry in zip(shape, spec, strict=False):
    divides = size % _size(mesh, entry) == 0
    if not divides and entry == "expert":
      raise ConfigError(
        f"{name} holds {size} experts; they must divide by mesh.expert, {mesh.shape['expert']}."
      )
    entries.append(entry if divides else None)
  return P(*entries)
