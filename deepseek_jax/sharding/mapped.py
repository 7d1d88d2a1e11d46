"""What runs under shard_map, where a device sees what is its own and says what it sends."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from deepseek_jax.ops.dispatch import default_capacity, expert_ffn
from deepseek_jax.ops.exchange import Exchange, exchanged_ffn, measures
from deepseek_jax.ops.precision import PLAIN, Precision
from deepseek_jax.ops.ring import mirrored, ring_attention
from deepseek_jax.sharding.mesh import SPLIT, TOKENS
from deepseek_jax.sharding.placement import (
  axes_of,
  dividing,
  entry_of,
  placement,
  splits_tokens,
  tokens_spec,
  ways,
)
from deepseek_jax.types import Span


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
  where = tokens_spec(mesh, x_BT)
  return jax.shard_map(
    functools.partial(mirrored, axis="context", back=back),
    mesh=mesh,
    in_specs=where,
    out_specs=where,
    axis_names=_manual(mesh),
    check_vma=False,
  )(tree)


def _manual(mesh: Mesh) -> set[str]:
  """The axes that shard_map takes: all, or but for `tensor` those that split tokens.

  All where they can be: XLA's CPU compiler ends at bfloat16 sums where an axis is left to jit.
  """
  return set(TOKENS if mesh.shape["tensor"] > 1 else mesh.axis_names)


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
  apart = tokens_spec(mesh, like_BT)
  together = P(entry_of(tuple(axis for entry in apart for axis in axes_of(entry))))
  here = [n // ways(mesh, entry) for n, entry in zip(like_BT.shape, apart)]
  kept = 1 if unflat else 2  # axes in front of those that stay as they are
  shape = here if unflat else [math.prod(here)]
  return jax.shard_map(
    lambda x: x.reshape(*shape, *x.shape[kept:]),
    mesh=mesh,
    in_specs=together if unflat else apart,
    out_specs=apart if unflat else together,
    axis_names=_manual(mesh),
    check_vma=False,
  )(x)


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
  reach: float | None = None,
) -> jax.Array:
  """`ops.dispatch.expert_ffn` over a mesh: a device computes its own experts, for whoever chose
  them, on weights that are gathered.

  Tokens that all their mesh axes divide are exchanged over `expert`. Of fewer (rows being
  decoded) each device computes its own experts on all, and the results are summed. `reach` is of
  how many devices a token is expected to have experts (`ops.reach`); by default as many as it may.
  """
  (tokens, top_k), E = experts_NA.shape, gate_EDF.shape[0]  # all tokens, all experts
  split = dividing(mesh, TOKENS, tokens)
  rows, peers = P(entry_of(split)), mesh.shape["expert"]
  stacks = [_expert_spec(mesh, w, name) for w, name in zip((gate_EDF, up_EDF, down_EFD), _STACKS)]
  here = tokens // ways(mesh, split)
  exchanging = peers > 1 and "expert" in split
  pieces, per_round = measures(here, min(top_k, peers, reach or peers), peers)
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
    features = [axis for axis in axes_of(stacks[0][2]) if axis not in SPLIT]
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


def on_own_tokens(
  mesh: Mesh | None, fn: Callable[..., jax.Array], x: jax.Array, weights: dict[str, Any]
) -> jax.Array:
  """`fn(x, *weights)` with each device's own tokens and whole weights.

  x is [B, T, ...], or [N, D] where each token is a row, as is what `fn` returns; weights are named
  as the table names them. They are gathered, also once more for the gradient, so that none is kept
  whole; its sum over devices lies as the weight does. XLA by itself sends twice as much where a
  weight is split on two of its axes. Tokens that not all devices share (rows being decoded),
  weights with adapters or in FP8, and all of it on a mesh with `tensor`, are left to it.
  """
  plain = all(isinstance(w, jax.Array) for w in weights.values())
  if mesh is None or not plain or all(mesh.shape[axis] == 1 for axis in SPLIT):
    return fn(x, *weights.values())
  if mesh.shape["tensor"] > 1:  # it would be jit's inside; XLA's CPU then ends at bfloat16 sums
    return fn(x, *weights.values())
  tokens = P(entry_of(dividing(mesh, TOKENS, len(x)))) if x.ndim == 2 else tokens_spec(mesh, x)
  if math.prod(ways(mesh, e) for e in tokens) < math.prod(mesh.shape[axis] for axis in TOKENS):
    return fn(x, *weights.values())
  specs = [_of_tokens(placement(mesh, name, w.shape)) for name, w in weights.items()]

  @functools.partial(jax.checkpoint, policy=_is_no_gather, prevent_cse=False)
  def body(x: jax.Array, *shards: jax.Array) -> jax.Array:
    return fn(x, *map(_whole, shards, specs))

  return jax.shard_map(
    body,
    mesh=mesh,
    in_specs=(tokens, *specs),
    out_specs=tokens,
    check_vma=False,
  )(x, *weights.values())


def _is_no_gather(primitive: Any, *_: Any, **__: Any) -> bool:
  """A policy of what is kept for the backward pass: all but what is gathered."""
  return "all_gather" not in primitive.name


def _of_tokens(spec: P) -> P:
  """What a spec says of the mesh axes that split tokens."""
  return P(*(entry_of(tuple(a for a in axes_of(entry) if a in TOKENS)) for entry in spec))


def _whole(shard: jax.Array, spec: P) -> jax.Array:
  for dim, entry in enumerate(spec):
    if entry:
      shard = jax.lax.all_gather(shard, entry, axis=dim, tiled=True)
  return shard


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
  split = dividing(mesh, TOKENS, count)
  here = P(entry_of(split))
  own = _of_tokens(placement(mesh, "head_DV", head_DV.shape))

  def body(head_DV: jax.Array, *rows: Any) -> tuple[Any, Any, Any]:
    sums, dhead_DV, found = fn(_whole(head_DV, own), *rows)
    if dhead_DV is not None:
      dhead_DV = _reduced(mesh, dhead_DV, split, own)
    return jax.lax.psum(sums, split), dhead_DV, found

  return jax.shard_map(
    body,
    mesh=mesh,
    in_specs=(own, *(here for _ in rows)),
    out_specs=(P(), own, here),
    axis_names=_manual(mesh),
    check_vma=False,
  )(head_DV, *rows)


def _reduced(mesh: Mesh, x: jax.Array, over: tuple[str, ...], spec: P) -> jax.Array:
  """`x` added up over the mesh axes `over`, and of it the shard that `spec` gives this device."""
  for dim, entry in enumerate(spec):
    for axis in axes_of(entry):
      if axis in over:
        x = jax.lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True)
      else:
        size = x.shape[dim] // mesh.shape[axis]
        x = jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * size, size, dim)
  kept = {axis for entry in spec for axis in axes_of(entry)}
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
    placement(mesh, name, x.shape)
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
  spec = placement(mesh, name, stack.shape)
  if isinstance(stack, jax.Array):
    return spec
  kept = [entry_of(tuple(a for a in axes_of(entry) if a not in SPLIT)) for entry in spec[1:]]
  return P(spec[0], *kept)


def _gathered(shard: Any, spec: P) -> Any:
  """A device's experts whole but for `tensor`; the gradient is added up and split likewise."""
  for axis, entry in enumerate(spec):
    over = tuple(a for a in axes_of(entry) if a in SPLIT)
    if axis and over:
      shard = jax.lax.all_gather(shard, over, axis=axis, tiled=True)
  return shard
