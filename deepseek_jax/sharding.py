"""Meshes, and where every array of the project lies on them.

A mesh has five axes. `data`, `fsdp` and `expert` split the rows of a batch; `fsdp` also splits
weights and optimiser state (ZeRO-3, 1910.02054); `expert` splits the experts, and what else there
is as `fsdp` does; `context` splits the tokens of a row, and weights likewise; `tensor` splits
heads, feed-forwards and the vocabulary (Megatron, 1909.08053). XLA places every collective but
those under shard_map: the exchange of tokens over `expert` (`sharded_expert_ffn`, ops/exchange.py),
the ring over `context` (`sharded_ring`, ops/ring.py), and the loss's (`by_rows`).

An array is placed by the axis letters that end its name (the legend is in `types.py`) and by one
table, `MESH_AXIS`. So parameters, their Adam moments, their EMA, batches and caches need no
annotations of their own. An axis that its mesh axes do not divide is split by those of them that
do, or stays whole (two key/value heads on `tensor=4`); only experts must divide, for a device must
own whole ones.

What is to come has its place: a pipeline axis is one for the stacked layer axis, which is the
unnamed leading axis here.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from deepseek_jax.config import ConfigError, require
from deepseek_jax.hosts import arrays, group
from deepseek_jax.ops.dispatch import default_capacity, expert_ffn
from deepseek_jax.ops.exchange import Exchange, exchanged_ffn, measures
from deepseek_jax.ops.precision import PLAIN, Precision
from deepseek_jax.ops.ring import mirrored, ring_attention
from deepseek_jax.types import Span

AXES = ("data", "fsdp", "expert", "context", "tensor")
ROWS = ("data", "fsdp", "expert")
TOKENS = (*ROWS, "context")
SPLIT = ("fsdp", "expert", "context")  # of weights

# Axis letter of an array's name -> mesh axis; letters not listed stay whole. Where two letters of
# one array name the same mesh axis the first has it: gate_EDF is split by `expert` on E and so only
# by `fsdp` on D, q_down_DQ on D and not on Q.
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

_PRODUCT = " * ".join(f"mesh.{axis}" for axis in ROWS)
_SUFFIX = re.compile(r"(?:^|_)([A-Z]+)$")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; all ones is a single device."""

  data: int = 1
  fsdp: int = 1
  expert: int = 1
  context: int = 1
  tensor: int = 1

  def __post_init__(self) -> None:
    for name in AXES:
      value = getattr(self, name)
      require(value > 0, f"mesh.{name} is {value}; it must be positive.")

  @property
  def devices(self) -> int:
    """How many devices the mesh takes."""
    return math.prod(getattr(self, name) for name in AXES)

  @property
  def row_devices(self) -> int:
    """How many ways the rows of a batch are split."""
    return math.prod(getattr(self, axis) for axis in ROWS)

  @property
  def token_devices(self) -> int:
    """How many ways the tokens of a batch are split."""
    return self.row_devices * self.context

  def check_rows(self, name: str, rows: int) -> None:
    """ConfigError unless `rows` of a batch, the field `name`, can be dealt to the devices."""
    parts = self.row_devices
    require(rows % parts == 0, f"{name} is {rows}; it must divide by {_PRODUCT}, {parts}.")


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
  # An axis may be as long as part of a torus's side, which jax.make_mesh refuses.
  laid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  return Mesh(laid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


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
    axes = tuple(axis for axis in _axes(wanted) if axis not in taken)
    entries.append(_entry(axes))
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
    return NamedSharding(mesh, _fit(mesh, parameter_spec(name, len(shape)), shape, name))

  return jax.tree_util.tree_map_with_path(place, abstract_tree)


def row_devices(mesh: Mesh | None) -> int:
  """How many ways the rows of a batch are split."""
  return 1 if mesh is None else _size(mesh, ROWS)


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
      count % rows == 0, f"the batch has {count} rows; they must divide by {_PRODUCT}, {rows}."
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
  return jax.lax.with_sharding_constraint(x_BTD, NamedSharding(mesh, _tokens_spec(mesh, x_BTD)))


def _tokens_spec(mesh: Mesh, x_BT: jax.Array) -> P:
  B, T = x_BT.shape[:2]
  return P(*(_entry(_dividing(mesh, axes, n)) for axes, n in ((ROWS, B), (("context",), T))))


def splits_tokens(mesh: Mesh | None, length: int) -> bool:
  """Whether rows of this many tokens lie on several devices."""
  return mesh is not None and mesh.shape["context"] > 1 and length % mesh.shape["context"] == 0


def balanced(mesh: Mesh | None, tree: Any, back: bool = False) -> Any:
  """Arrays [B, T, ...] so ordered that each device has early and late tokens; `back` undoes it.

  So all have as many keys to look at (`ops.ring.mirrored`). Where the tokens of a row lie on one
  device, or an odd number on each, the order stays.
  """
  x_BT = jax.tree.leaves(tree)[0]
  if mesh is None or not splits_tokens(mesh, x_BT.shape[1]):
    return tree
  if x_BT.shape[1] // mesh.shape["context"] % 2:
    return tree
  where = _tokens_spec(mesh, x_BT)
  return jax.shard_map(
    functools.partial(mirrored, axis="context", back=back),
    mesh=mesh,
    in_specs=where,
    out_specs=where,
    axis_names=set(TOKENS),
    check_vma=False,
  )(tree)


def flat(mesh: Mesh | None, x_BT: jax.Array) -> jax.Array:
  """[B, T, ...] -> [N, ...], each token a row.

  Where the tokens of a row lie on several devices each takes its own, so that nothing is sent: they
  are then in the order of devices, for all arrays the same.
  """
  if not splits_tokens(mesh, x_BT.shape[1]):
    return x_BT.reshape(-1, *x_BT.shape[2:])
  return _reshaped(mesh, x_BT, x_BT, unflat=False)


def unflat(mesh: Mesh | None, x_N: jax.Array, like_BT: jax.Array) -> jax.Array:
  """The inverse of `flat`: [N, ...] -> [B, T, ...] with the rows and tokens of `like_BT`."""
  if not splits_tokens(mesh, like_BT.shape[1]):
    return x_N.reshape(*like_BT.shape[:2], *x_N.shape[1:])
  return _reshaped(mesh, x_N, like_BT, unflat=True)


def _reshaped(mesh: Any, x: jax.Array, like_BT: jax.Array, unflat: bool) -> jax.Array:
  apart = _tokens_spec(mesh, like_BT)
  together = P(_entry(tuple(axis for entry in apart for axis in _axes(entry))))
  here = [n // _size(mesh, entry) for n, entry in zip(like_BT.shape, apart)]
  kept = 1 if unflat else 2  # axes in front of those that stay as they are
  shape = here if unflat else [math.prod(here)]
  return jax.shard_map(
    lambda x: x.reshape(*shape, *x.shape[kept:]),
    mesh=mesh,
    in_specs=together if unflat else apart,
    out_specs=apart if unflat else together,
    axis_names=set(TOKENS),
    check_vma=False,
  )(x)


def attention_split(mesh: Mesh | None, rows: int, heads: int) -> tuple[int, int]:
  """Over how many devices the table splits the rows and the heads of an attention's queries."""
  if mesh is None:
    return 1, 1
  spec = _fit(mesh, parameter_spec("q_BTHK", 4), (rows, 1, heads, 1), "q_BTHK")
  return _size(mesh, spec[0]), _size(mesh, spec[2])


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
  """`ops.dispatch.expert_ffn` over a mesh: a device computes its own experts, for whoever chose
  them, on weights that are gathered.

  Tokens that all their mesh axes divide are exchanged over `expert`. Of fewer (rows being
  decoded) each device computes its own experts on all, and the results are summed.
  """
  (tokens, top_k), E = experts_NA.shape, gate_EDF.shape[0]  # all tokens, all experts
  split = _dividing(mesh, TOKENS, tokens)
  rows, peers = P(_entry(split)), mesh.shape["expert"]
  stacks = [_expert_spec(mesh, w, name) for w, name in zip((gate_EDF, up_EDF, down_EFD), _STACKS)]
  here = tokens // _size(mesh, split)
  exchanging = peers > 1 and "expert" in split
  pieces, per_round = measures(here, top_k, peers)
  routed = here // pieces * peers if exchanging else here  # of whose choices a device has some

  def own_experts(x_ND, weights_NA, experts_NA, stacks):
    return expert_ffn(
      x_ND,
      weights_NA,
      experts_NA,
      *stacks,
      implementation=implementation,
      precision=precision,
      first_expert=jax.lax.axis_index("expert") * (E // peers),
      capacity=default_capacity(routed, top_k, E),
    )

  def body(x_ND, weights_NA, experts_NA, *shards):
    whole = [_gathered(w, spec) for w, spec in zip(shards, stacks)]
    if exchanging:
      exchange = Exchange("expert", TOKENS, E // peers, pieces, per_round, own_experts)
      y_ND = exchanged_ffn(exchange, x_ND, weights_NA, experts_NA, whole)
    else:
      y_ND = own_experts(x_ND, weights_NA, experts_NA, whole)
    features = [axis for axis in _axes(stacks[0][2]) if axis not in SPLIT]
    return jax.lax.psum(y_ND, [a for a in ("expert", *features) if a not in split])

  # check_vma off: the dispatch may loop over carries that it starts from constants, which the
  # check would refuse. Gradients are right without it; tests hold them against one device.
  return jax.shard_map(
    body,
    mesh=mesh,
    in_specs=(rows, rows, rows, *stacks),
    out_specs=rows,
    check_vma=False,
  )(x_ND, weights_NA, experts_NA, gate_EDF, up_EDF, down_EFD)


def by_rows(
  mesh: Mesh | None,
  fn: Callable[..., tuple[Any, jax.Array | None, Any]],
  head_DV: jax.Array,
  rows: tuple[Any, ...],
) -> tuple[Any, Any, Any]:
  """`fn(head_DV, *rows)` with each device's own rows and the whole head, but for `tensor`.

  `rows` are pytrees of arrays whose first axis is that of all rows, and so is the last of what `fn`
  returns: sums over rows, the head's gradient (float32) or None, and what it has for each row. Sums
  and the gradient are added up over devices once; the gradient then lies as the head does. Not
  differentiable: its callers have gradients of their own.
  """
  if mesh is None:
    return fn(head_DV, *rows)
  count = jax.tree.leaves(rows)[0].shape[0]
  split = _dividing(mesh, TOKENS, count)
  here = P(_entry(split))
  placed = _fit(mesh, parameter_spec("head_DV", 2), head_DV.shape, "head_DV")
  own = P(*(_entry(tuple(a for a in _axes(entry) if a in TOKENS)) for entry in placed))

  def body(head_DV: jax.Array, *rows: Any) -> tuple[Any, Any, Any]:
    for dim, entry in enumerate(own):
      if entry:
        head_DV = jax.lax.all_gather(head_DV, entry, axis=dim, tiled=True)
    sums, dhead_DV, found = fn(head_DV, *rows)
    if dhead_DV is not None:
      dhead_DV = _reduced(mesh, dhead_DV, split, own)
    return jax.lax.psum(sums, split), dhead_DV, found

  return jax.shard_map(
    body,
    mesh=mesh,
    in_specs=(own, *(here for _ in rows)),
    out_specs=(P(), own, here),
    axis_names=set(TOKENS),
    check_vma=False,
  )(head_DV, *rows)


def _reduced(mesh: Mesh, x: jax.Array, over: tuple[str, ...], spec: P) -> jax.Array:
  """`x` added up over the mesh axes `over`, and of it the shard that `spec` gives this device."""
  for dim, entry in enumerate(spec):
    for axis in _axes(entry):
      if axis in over:
        x = jax.lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True)
      else:
        size = x.shape[dim] // mesh.shape[axis]
        x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * size, size, dim)
  kept = {axis for entry in spec for axis in _axes(entry)}
  return jax.lax.psum(x, tuple(axis for axis in over if axis not in kept))


def sharded_ring(
  mesh: Mesh,
  q_BTHK: jax.Array,
  kv_BTX: jax.Array,
  k_up_CHK: jax.Array,
  v_up_CHU: jax.Array,
  where: Span,
  scale: float,
  block: int,
) -> jax.Array:
  """`ops.ring.ring_attention` over `context`, rows and heads split as the table has them."""
  q, k, v = (
    _fit(mesh, parameter_spec(name, x.ndim), x.shape, name)
    for name, x in (("q_BTHK", q_BTHK), ("k_KHK", k_up_CHK), ("v_KHU", v_up_CHU))
  )
  tokens = P(*q[:2])
  return jax.shard_map(
    functools.partial(ring_attention, scale=scale, block=block, axis="context"),
    mesh=mesh,
    in_specs=(q, tokens, k, v, tokens),
    out_specs=q,
    check_vma=False,
  )(q_BTHK, kv_BTX, k_up_CHK, v_up_CHU, where)


_STACKS = ("gate_EDF", "up_EDF", "down_EFD")


def _expert_spec(mesh: Mesh, stack: Any, name: str) -> P:
  """The table's placement of a stack; but adapters and FP8 blocks come with whole experts."""
  spec = _fit(mesh, parameter_spec(name, 3), stack.shape, name)
  if isinstance(stack, jax.Array):
    return spec
  kept = [_entry(tuple(a for a in _axes(entry) if a not in SPLIT)) for entry in spec[1:]]
  return P(spec[0], *kept)


def _gathered(shard: Any, spec: P) -> Any:
  """A device's experts whole but for `tensor`; the gradient is added up and split likewise."""
  for axis, entry in enumerate(spec):
    over = tuple(a for a in _axes(entry) if a in SPLIT)
    if axis and over:
      shard = jax.lax.all_gather(shard, over, axis=axis, tiled=True)
  return shard


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


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The mesh axes in an entry of a PartitionSpec."""
  return (entry,) if isinstance(entry, str) else (entry or ())


def _entry(axes: tuple[str, ...]) -> str | tuple[str, ...] | None:
  """The entry of a PartitionSpec that names these mesh axes."""
  return axes if len(axes) > 1 else axes[0] if axes else None


def _size(mesh: Mesh, entry: str | tuple[str, ...] | None) -> int:
  """How many ways an entry of a PartitionSpec splits an axis."""
  return math.prod(mesh.shape[axis] for axis in _axes(entry))


def _dividing(mesh: Mesh, axes: tuple[str, ...], size: int) -> tuple[str, ...]:
  """Those of the mesh axes, next to one another, that split an axis of `size` the most ways.

  None of a single device, which splits nothing.
  """
  axes = tuple(axis for axis in axes if mesh.shape[axis] > 1)
  runs = [axes[i:j] for i in range(len(axes)) for j in range(i + 1, len(axes) + 1)]
  able = [run for run in runs if size % _size(mesh, run) == 0]
  return max(able, key=functools.partial(_size, mesh), default=())


def _fit(mesh: Mesh, spec: P, shape: tuple[int, ...], name: str) -> P:
  """`spec` without mesh axes that do not divide `shape`, a weight's in whole tiles if they can be.

  ConfigError if it is an expert's that does not divide.
  """
  letters = _letters(name).rjust(len(shape))
  entries: list[tuple[str, ...]] = []
  for size, entry in zip(shape, spec, strict=False):
    axes = _dividing(mesh, _axes(entry), size)
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
  return P(*(_entry(axes) for axes in entries))


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
    parts = [_size(mesh, axes) for axes in entries]
    if any(size % n for size, n in zip(shape, parts, strict=True)):
      continue
    split = {dim for dim in chosen if dim is not None}
    whole = all(shape[dim] // parts[dim] % tile[dim] == 0 for dim in split)
    ways = math.prod(mesh.shape[axis] for axis, dim in zip(free, chosen) if dim is not None)
    score = 0.0 if ways == 1 else ways if whole else ways / _PIECEMEAL
    if score > most:
      best, most = entries, score
  return best
