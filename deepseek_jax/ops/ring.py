"""Ring attention for MLA: tokens split over a mesh axis, what is cached of each sent round it.

Each device keeps its own queries. The latents and rotated keys of all tokens, with where they
stand, visit every device in turn (2310.01889), which makes keys and values of them by its own copy
of the up-projections, for one piece of heads at a time: C + R numbers per token are the least that
can be sent. The backward pass sends them round again, with their gradients as they gather.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepseek_jax.ops.blockwise import (
  Blocks,
  Gradients,
  Saved,
  empty,
  finish,
  fold,
  heads_first,
  output_dot,
  plan,
  pull,
)
from deepseek_jax.ops.pieces import Piece, Pieces
from deepseek_jax.ops.visibility import visible_blocks
from deepseek_jax.types import Span


class _Form(NamedTuple):
  """What does not change from hop to hop."""

  scale: float
  blocks: Blocks
  pieces: Pieces
  axis: str


class _Up(NamedTuple):
  """From latents to the heads' keys and values, or the gradients of that."""

  k_CHK: jax.Array
  v_CHU: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def ring_attention(
  q_BTHK, kv_BTX, k_up_CHK, v_up_CHU, where: Span, scale: float, block: int, axis: str
) -> jax.Array:
  """A device's part [B, T, H, U] of attention over all tokens of its rows.

  Inside shard_map, with check_vma=False, as its loops start from constants.

  Args:
    q_BTHK: queries of this device's tokens, position-free and rotated: K is that of `k_up_CHK` + R.
    kv_BTX: the normed latent and the rotated shared key of this device's tokens, C + R.
    k_up_CHK, v_up_CHU: up-projections, whole along `axis`. Their gradients, and no others, are this
      device's share: shard_map sums what comes of operands that it does not split.
    where: positions and segments of this device's tokens, which alone decide what is visible, so
      tokens may lie on the devices in any order.
    scale: of the scores.
    block: of keys and queries, see `ops/blockwise.py`.
    axis: the mesh axis that splits the tokens.
  """
  return _forward(q_BTHK, kv_BTX, k_up_CHK, v_up_CHU, where, scale, block, axis)[0]


def mirrored(tree: Any, axis: str, back: bool = False) -> Any:
  """Gives each device as early tokens as late ones, so that all have as many keys to look at.

  Of arrays [B, T, ...] whose tokens follow one another from device to device, of 2 P parts, the
  p-th of P devices gets parts p and 2 P - 1 - p: the even one of them first. T must be even. `back`
  undoes it.
  """
  size = jax.lax.axis_size(axis)
  to = [part if part < size else 2 * size - 1 - part for part in range(2 * size)]
  routes = [list(enumerate(to[0::2])), list(enumerate(to[1::2]))]
  if back:
    routes = [[(there, here) for here, there in route] for route in routes]

  def send(x_BT: jax.Array) -> jax.Array:
    halves = zip(jnp.split(x_BT, 2, axis=1), routes)
    return jnp.concatenate([jax.lax.ppermute(x, axis, route) for x, route in halves], axis=1)

  return jax.tree.map(send, tree)


def _form(q_BTHK: jax.Array, scale: float, block: int, axis: str) -> _Form:
  B, T, H, K = q_BTHK.shape
  blocks, pieces = plan((B, T, H, 1, K), T, block)
  return _Form(scale, blocks._replace(ordered=False), pieces, axis)


def _send(form: _Form, x: Any) -> Any:
  """To the next device, from the one before."""
  size = jax.lax.axis_size(form.axis)
  to_next = [(i, (i + 1) % size) for i in range(size)]
  return jax.tree.map(lambda a: jax.lax.ppermute(a, form.axis, to_next), x)


def _if_seen(form: _Form, queries: Span, keys: Span, fn: Any, state: Any, *args: Any) -> Any:
  """`fn(state, *args)`, or the state as it is where no query sees any of the keys."""
  seen = visible_blocks(queries, keys, form.blocks.queries, form.blocks.keys).any()
  return jax.lax.cond(seen, fn, lambda state, *_: state, state, *args)


def _expand(kv_BSX: jax.Array, up: _Up) -> tuple[jax.Array, jax.Array]:
  """Keys [B, H, S, K + R] and values [B, H, S, U] of some heads."""
  C, H = up.k_CHK.shape[:2]
  latent_BSC, rope_BSR = kv_BSX[..., :C], kv_BSX[..., C:]
  k_BHSK = jnp.einsum("bsc,chk->bhsk", latent_BSC, up.k_CHK)
  rope = jnp.broadcast_to(rope_BSR[:, None], (*k_BHSK.shape[:3], rope_BSR.shape[-1]))
  v_BHSU = jnp.einsum("bsc,chu->bhsu", latent_BSC, up.v_CHU)
  return jnp.concatenate([k_BHSK, rope], axis=-1), v_BHSU


def _up(piece: Piece, up: _Up) -> _Up:
  return _Up(*(piece.take(x, "CH") for x in up))


def _forward(q_BTHK, kv_BTX, k_up_CHK, v_up_CHU, where, scale, block, axis):
  (B, T, H, _), U = q_BTHK.shape, v_up_CHU.shape[-1]
  form, up = _form(q_BTHK, scale, block, axis), _Up(k_up_CHK, v_up_CHU)
  q_BHT1K = heads_first(q_BTHK)[:, :, :, None]

  def meet(state, kv_BSX, keys: Span):
    def step(i, state):
      piece = form.pieces.at(i)
      k, v = _expand(piece.take(kv_BSX, "B"), _up(piece, up))
      spans = piece.span(where), piece.span(keys)
      mine = type(state)(*(piece.take(x, "BH") for x in state))
      mine = fold(mine, piece.take(q_BHT1K, "BH"), k, v, *spans, scale, form.blocks)
      return type(state)(*(piece.put(x, new, "BH") for x, new in zip(state, mine)))

    return jax.lax.fori_loop(0, form.pieces.number, step, state)

  def hop(_, carry):
    state, here = carry
    arriving = _send(form, here)
    return _if_seen(form, where, here[1], meet, state, *here), arriving

  carry = (empty(B, H, T, 1, U), (kv_BTX, where))
  state, _ = jax.lax.fori_loop(0, jax.lax.axis_size(axis), hop, carry)
  out_BHT1U, log_norm_BHT1 = finish(state)
  out_BTHU = heads_first(out_BHT1U[:, :, :, 0]).astype(q_BTHK.dtype)
  return out_BTHU, (q_BTHK, kv_BTX, up, where, out_BTHU, log_norm_BHT1)


def _backward(scale, block, axis, saved, grad_BTHU):
  q_BTHK, kv_BTX, up, where, out_BTHU, log_norm_BHT1 = saved
  form = _form(q_BTHK, scale, block, axis)
  q_BHT1K, grad_BHT1U, dot_BHT1 = (
    heads_first(x)[:, :, :, None] for x in (q_BTHK, grad_BTHU, output_dot(out_BTHU, grad_BTHU))
  )
  kept = Saved(log_norm_BHT1, dot_BHT1, grad_BHT1U)

  def meet(sums, kv_BSX, keys: Span):
    def step(i, sums):
      piece = form.pieces.at(i)
      dq, dup, dkv = sums
      (k, v), back = jax.vjp(_expand, piece.take(kv_BSX, "B"), _up(piece, up))
      mine = Gradients(piece.take(dq, "BH"), jnp.zeros(k.shape), jnp.zeros(v.shape))
      own, spans = piece.take(q_BHT1K, "BH"), (piece.span(where), piece.span(keys))
      rest = Saved(*(piece.take(x, "BH") for x in kept))
      mine = pull(mine, rest, own, k, v, *spans, scale, form.blocks)
      new_kv, new_up = back((mine.k_BGSK.astype(k.dtype), mine.v_BGSU.astype(v.dtype)))
      dup = _Up(*(piece.add(x, new, "CH") for x, new in zip(dup, new_up)))
      return piece.put(dq, mine.q_BGTJK, "BH"), dup, piece.add(dkv, new_kv, "B")

    return jax.lax.fori_loop(0, form.pieces.number, step, sums)

  def hop(_, carry):
    (dq, dup, dkv), here = carry
    arriving = _send(form, here)
    dq, dup, dkv = _if_seen(form, where, here[1], meet, (dq, dup, dkv), *here)
    return (dq, dup, _send(form, dkv)), arriving

  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), (q_BHT1K, up, kv_BTX))
  sums, _ = jax.lax.fori_loop(0, jax.lax.axis_size(axis), hop, (zeros, (kv_BTX, where)))
  dq_BHT1K, dup, dkv = sums  # after as many hops as there are devices, that of its own tokens
  dq = heads_first(dq_BHT1K[:, :, :, 0])
  gradients = (dq, dkv, *dup)
  operands = (q_BTHK, kv_BTX, *up)
  return *(g.astype(x.dtype) for g, x in zip(gradients, operands)), None


ring_attention.defvjp(_forward, _backward)
