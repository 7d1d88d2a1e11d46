"""Attention in blocks of queries and of keys, forward and backward, with an online softmax.

`fold` adds keys to what queries have gathered so far, and `pull` adds what keys contribute to the
gradients, so that keys may also arrive from elsewhere (`ops/ring.py`). Scores are those of one
block of queries and one of keys (2205.14135, 2307.08691), and are made again in the backward pass
from a saved log-normaliser. Products take operands as they come and sum in float32.

Rows and key/value heads are cut into pieces besides, one after another, so that on each device a
tile of scores has at most TILE elements, or as many as one row and key/value head make.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepseek_jax.ops.pieces import Block, Piece, Pieces
from deepseek_jax.ops.visibility import MASKED, visible_blocks, visible_BTS
from deepseek_jax.types import Span

TILE = 2**24  # 64 MiB of float32, of which the backward pass holds a few
LOWEST = MASKED / 10  # below any score to be seen; exp(MASKED - LOWEST) is zero


class Running(NamedTuple):
  """What queries have gathered from the keys met so far, float32."""

  top_BGTJ: jax.Array  # the greatest score
  total_BGTJ: jax.Array  # the sum of exp(score - top)
  out_BGTJU: jax.Array  # the sum of exp(score - top) times value


class Gradients(NamedTuple):
  """Of queries, keys and values, float32."""

  q_BGTJK: jax.Array
  k_BGSK: jax.Array
  v_BGSU: jax.Array


class Saved(NamedTuple):
  """What the backward pass needs of the forward pass, and the output's gradient."""

  log_norm_BGTJ: jax.Array
  dot_BGTJ: jax.Array  # the sum of output times its gradient
  grad_BGTJU: jax.Array


class Blocks(NamedTuple):
  """How long blocks are, and how it is known that two need not meet."""

  queries: int
  keys: int
  ordered: bool = False  # keys are the queries' own tokens, of which none may see a later one
  by_span: bool = True  # positions and segments are looked at


def plan(
  q_shape: tuple[int, ...], S: int, block: int, devices: tuple[int, int] = (1, 1)
) -> tuple[Blocks, Pieces]:
  """Blocks of about `block` keys, and of queries times J; pieces so that a tile is within TILE.

  `q_shape` is [B, T, G, J, K]; `devices` share its rows and its key/value heads. Where rows are
  split so, one device does not look at where the tokens of all of them stand.
  """
  B, T, G, J, _ = q_shape
  sharing = (math.gcd(B, devices[0]), math.gcd(G, devices[1]))
  blocks = Blocks(_even(T, max(1, block // J)), _even(S, block), T == S, sharing[0] == 1)
  most = max(1, TILE // (blocks.queries * J * blocks.keys))  # rows times heads of a piece
  rows, heads = B // sharing[0], G // sharing[1]
  row_parts = _parts(rows, max(1, most // heads))
  return blocks, Pieces(row_parts, _parts(heads, max(1, most * row_parts // rows)), sharing)


def _even(size: int, block: int) -> int:
  """The length of as few equal blocks as may be, of at most `block`."""
  return -(-size // -(-size // block))


def _parts(size: int, most: int) -> int:
  """The fewest equal parts of at most `most`."""
  return next(n for n in range(1, size + 1) if size % n == 0 and size // n <= most)


def empty(B: int, G: int, T: int, J: int, U: int) -> Running:
  """Of queries that have met no key."""
  shape = (B, G, T, J)
  return Running(jnp.full(shape, LOWEST), jnp.zeros(shape), jnp.zeros((*shape, U)))


def finish(state: Running) -> tuple[jax.Array, jax.Array]:
  """The output [B, G, T, J, U], zeros where nothing was seen, and the log-normaliser."""
  total = jnp.where(state.total_BGTJ == 0, 1.0, state.total_BGTJ)
  return state.out_BGTJU / total[..., None], state.top_BGTJ + jnp.log(total)


def fold(
  state: Running, q_BGTJK, k_BGSK, v_BGSU, queries: Span, keys: Span, scale: float, blocks: Blocks
) -> Running:
  """What queries have gathered when they have met these keys too."""
  first_N, end_N = _meetings(queries, keys, blocks)

  def query_block(n, state: Running) -> Running:
    own = Block(n, blocks.queries, q_BGTJK.shape[2])
    q = own.take(q_BGTJK, 2)

    def key_block(m, mine: Running) -> Running:
      met = Block(m, blocks.keys, k_BGSK.shape[2])
      scores = _scores(q, met.take(k_BGSK, 2), _mask(queries, own, keys, met), scale)
      top = jnp.maximum(mine.top_BGTJ, scores.max(axis=-1))
      weights, fade = jnp.exp(scores - top[..., None]), jnp.exp(mine.top_BGTJ - top)
      total = mine.total_BGTJ * fade + weights.sum(axis=-1)
      new = _product("bgtjs,bgsu->bgtju", weights.astype(v_BGSU.dtype), met.take(v_BGSU, 2))
      return Running(top, total, mine.out_BGTJU * fade[..., None] + new)

    mine = Running(*(own.take(x, 2) for x in state))
    mine = jax.lax.fori_loop(first_N[n], end_N[n], key_block, mine)
    return Running(*(own.put(x, new, 2) for x, new in zip(state, mine)))

  return jax.lax.fori_loop(0, len(first_N), query_block, state)


def pull(
  sums: Gradients,
  saved: Saved,
  q_BGTJK,
  k_BGSK,
  v_BGSU,
  queries: Span,
  keys: Span,
  scale: float,
  blocks: Blocks,
) -> Gradients:
  """`sums` with what comes of these queries' having met these keys."""
  first_N, end_N = _meetings(queries, keys, blocks)

  def query_block(n, sums: Gradients) -> Gradients:
    own = Block(n, blocks.queries, q_BGTJK.shape[2])
    q, (log_norm, dot, grad) = own.take(q_BGTJK, 2), (own.take(x, 2) for x in saved)

    def key_block(m, carry):
      dq, dk, dv = carry
      met = Block(m, blocks.keys, k_BGSK.shape[2])
      k, v = met.take(k_BGSK, 2), met.take(v_BGSU, 2)
      scores = _scores(q, k, _mask(queries, own, keys, met), scale)
      weights = jnp.exp(scores - log_norm[..., None])
      dweights = _product("bgtju,bgsu->bgtjs", grad, v)
      dscores = (weights * (dweights - dot[..., None]) * scale).astype(q.dtype)
      dk = met.add(dk, _product("bgtjs,bgtjk->bgsk", dscores, q), 2)
      dv = met.add(dv, _product("bgtjs,bgtju->bgsu", weights.astype(v.dtype), grad), 2)
      return dq + _product("bgtjs,bgsk->bgtjk", dscores, k), dk, dv

    start = (jnp.zeros(q.shape), sums.k_BGSK, sums.v_BGSU)
    dq, dk, dv = jax.lax.fori_loop(first_N[n], end_N[n], key_block, start)
    return Gradients(own.add(sums.q_BGTJK, dq, 2), dk, dv)

  return jax.lax.fori_loop(0, len(first_N), query_block, sums)


def _product(form: str, a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum(form, a, b, preferred_element_type=jnp.float32)


def _scores(q_BGTJK, k_BGSK, mask_BTS, scale: float) -> jax.Array:
  scores = _product("bgtjk,bgsk->bgtjs", q_BGTJK, k_BGSK)
  return jnp.where(mask_BTS[:, None, :, None], scores * scale, MASKED)


def _mask(queries: Span, own: Block, keys: Span, met: Block) -> jax.Array:
  """What is visible of a block's keys, each pair of tokens in one pair of blocks only."""
  once_TS = own.own_T()[:, None] & met.own_T()
  return visible_BTS(own.span(queries), met.span(keys)) & once_TS


def _meetings(queries: Span, keys: Span, blocks: Blocks) -> tuple[jax.Array, jax.Array]:
  """For each block of queries the first block of keys to meet, and the one behind the last."""
  T, S = queries.positions_BT.shape[1], keys.positions_BT.shape[1]
  n, m = jnp.arange(-(-T // blocks.queries))[:, None], jnp.arange(-(-S // blocks.keys))
  meet_NM = jnp.ones((n.size, m.size), bool)
  if blocks.by_span:
    meet_NM &= visible_blocks(queries, keys, blocks.queries, blocks.keys)
  if blocks.ordered:
    meet_NM &= m * blocks.keys < (n + 1) * blocks.queries
  end_N = jnp.max(jnp.where(meet_NM, m + 1, 0), axis=1)
  return jnp.minimum(jnp.argmax(meet_NM, axis=1), end_N).astype(end_N.dtype), end_N


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def blockwise(
  q_BTHK,
  k_BSGK,
  v_BSGU,
  queries: Span,
  keys: Span,
  scale: float,
  block: int,
  devices: tuple[int, int] = (1, 1),
) -> jax.Array:
  """Attention [B, T, H, U] that keeps its operands, its output and log-normalisers [B, T, H].

  Its temporaries are of one piece: tiles of scores, its part of the arrays with heads first, and in
  float32 of its output or gradients.

  Args:
    q_BTHK, k_BSGK, v_BSGU: queries, keys and values; H is a multiple of G.
    queries, keys: where they stand. As many keys as queries are the same tokens in the same order,
      of which none may see a later one. A query that sees nothing gets zeros.
    scale: of the scores.
    block: keys in a block, and queries times heads that share keys. Two blocks do not meet where
      order, positions and segments say that nothing is visible.
    devices: over how many of them jit splits the rows, and the key/value heads, of these arrays;
      ones inside shard_map.
  """
  return _forward(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale, block, devices)[0]


def _piece(piece: Piece, q_BTGJK, k_BSGK, v_BSGU, queries: Span, keys: Span):
  """A piece's operands, heads first, and where its queries and keys stand."""
  arrays = (heads_first(piece.take(x, "BTG")) for x in (q_BTGJK, k_BSGK, v_BSGU))
  return *arrays, piece.span(queries), piece.span(keys)


def heads_first(x_BTG: jax.Array) -> jax.Array:
  """[B, T, G, ...] as [B, G, T, ...], and back."""
  return jnp.swapaxes(x_BTG, 1, 2)


def _forward(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale, block, devices):
  (B, T, H, K), (S, G, U) = q_BTHK.shape, v_BSGU.shape[1:]
  q_BTGJK = q_BTHK.reshape(B, T, G, H // G, K)
  blocks, pieces = plan(q_BTGJK.shape, S, block, devices)

  def step(i, results):
    piece = pieces.at(i)
    q, k, v, *spans = _piece(piece, q_BTGJK, k_BSGK, v_BSGU, queries, keys)
    state = fold(empty(*q.shape[:4], U), q, k, v, *spans, scale, blocks)
    return [piece.put(x, heads_first(new), "BTG") for x, new in zip(results, finish(state))]

  results = [jnp.zeros((B, T, G, H // G, U), v_BSGU.dtype), jnp.zeros((B, T, G, H // G))]
  out, log_norm = jax.lax.fori_loop(0, pieces.number, step, results)
  out_BTHU = out.reshape(B, T, H, U)
  return out_BTHU, (q_BTHK, k_BSGK, v_BSGU, queries, keys, out_BTHU, log_norm)


def _backward(scale, block, devices, saved, grad_BTHU):
  q_BTHK, k_BSGK, v_BSGU, queries, keys, out_BTHU, log_norm_BTGJ = saved
  (B, T, H, _), (S, G, _) = q_BTHK.shape, v_BSGU.shape[1:]
  q_BTGJK, grad_BTGJU = (x.reshape(B, T, G, H // G, -1) for x in (q_BTHK, grad_BTHU))
  dot_BTGJ = output_dot(out_BTHU, grad_BTHU).reshape(log_norm_BTGJ.shape)
  blocks, pieces = plan(q_BTGJK.shape, S, block, devices)

  def step(i, results):
    piece = pieces.at(i)
    operands = _piece(piece, q_BTGJK, k_BSGK, v_BSGU, queries, keys)
    kept = (log_norm_BTGJ, dot_BTGJ, grad_BTGJU)
    kept = Saved(*(heads_first(piece.take(x, "BTG")) for x in kept))
    sums = Gradients(*(jnp.zeros(x.shape) for x in operands[:3]))
    sums = pull(sums, kept, *operands, scale, blocks)
    return [piece.put(x, heads_first(new), "BTG") for x, new in zip(results, sums)]

  results = [jnp.zeros_like(x) for x in (q_BTGJK, k_BSGK, v_BSGU)]
  dq, dk, dv = jax.lax.fori_loop(0, pieces.number, step, results)
  return dq.reshape(q_BTHK.shape), dk, dv, None, None


def output_dot(out_BTHU, grad_BTHU) -> jax.Array:
  """The sum over U of output times gradient, float32."""
  return jnp.sum(out_BTHU.astype(jnp.float32) * grad_BTHU.astype(jnp.float32), axis=-1)


blockwise.defvjp(_forward, _backward)
