"""Masked attention over grouped key/value heads: whole, and blockwise with an online softmax.

One pair of functions serves every form: grouped-query attention; MLA expanded to full heads
(G = H); and MLA absorbed, where the latent itself is one key/value head (G = 1). Softmax is
float32. Query and key width (K below) is whatever the form makes it; U is the value width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.types import SHARED, Span

QUERY_BLOCK = 64  # rows of queries that share a cut of the keys, where these are in causal order
MASKED = -1e30  # finite: a row without any visible key gets uniform weights, not NaN


def attend(
  q_BTHK: jax.Array,
  k_BSGK: jax.Array,
  v_BSGU: jax.Array,
  queries: Span,
  keys: Span,
  scale: float,
  block: int,
) -> jax.Array:
  """Attention output [B, T, H, U]; blockwise when several queries meet more than `block` keys.

  As many keys as queries are the same tokens in the same order, of which none may see a later one.
  """
  if q_BTHK.shape[1] == 1:
    return single(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale)
  if k_BSGK.shape[1] > block:
    return blockwise(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale, block)
  form = causal if q_BTHK.shape[1] == k_BSGK.shape[1] else whole
  return form(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale)


def visible_BTS(queries: Span, keys: Span) -> jax.Array:
  """Which keys each query may see: at or before its position, of its segment or a shared one."""
  own_BT1, key_B1S = queries.segments_BT[:, :, None], keys.segments_BT[:, None, :]
  same = (own_BT1 == key_B1S) | (own_BT1 % SHARED == key_B1S)
  past = keys.positions_BT[:, None, :] <= queries.positions_BT[:, :, None]
  return same & past


def naive(q_BTHK, k_BSGK, v_BSGU, queries: Span, keys: Span, scale: float) -> jax.Array:
  """Attention with all scores at once; the reference for `blockwise`."""
  B, T, H, _ = q_BTHK.shape
  G, U = v_BSGU.shape[2], v_BSGU.shape[3]
  q_BTGJK = q_BTHK.reshape(B, T, G, H // G, -1)  # J: query heads of one key/value head
  scores = jnp.einsum("btgjk,bsgk->bgjts", q_BTGJK, k_BSGK, preferred_element_type=jnp.float32)
  mask = visible_BTS(queries, keys)[:, None, None]
  weights = jax.nn.softmax(jnp.where(mask, scores * scale, MASKED), axis=-1)
  out = jnp.einsum("bgjts,bsgu->btgju", weights.astype(v_BSGU.dtype), v_BSGU)
  return out.reshape(B, T, H, U)


def single(q_B1HK, k_BSGK, v_BSGU, queries: Span, keys: Span, scale: float) -> jax.Array:
  """`naive` for one query, as in decoding: products whose operands stay as they lie in memory.

  With an axis for queries XLA copies keys and values transposed, which takes longer than the rest.
  """
  B, _, H, K = q_B1HK.shape
  G, U = v_BSGU.shape[2], v_BSGU.shape[3]
  q_BGJK = q_B1HK.reshape(B, G, H // G, K)
  scores = jnp.einsum("bgjk,bsgk->bgjs", q_BGJK, k_BSGK, preferred_element_type=jnp.float32)
  mask = visible_BTS(queries, keys)[:, None]
  weights = jax.nn.softmax(jnp.where(mask, scores * scale, MASKED), axis=-1)
  out = jnp.einsum("bgjs,bsgu->bgju", weights.astype(v_BSGU.dtype), v_BSGU)
  return out.reshape(B, 1, H, U)


def whole(q_BTHK, k_BSGK, v_BSGU, queries: Span, keys: Span, scale: float) -> jax.Array:
  """`naive` with a derivative written by hand: a quarter less work on a CPU.

  Heads come first, so that no array of scores is ever transposed, and the backward pass makes the
  weights again from the scores rather than keep them.
  """
  B, T, H, K = q_BTHK.shape
  G, U = v_BSGU.shape[2], v_BSGU.shape[3]
  q_BGJTK = jnp.moveaxis(q_BTHK.reshape(B, T, G, H // G, K), 1, 3)
  k_BGSK, v_BGSU = jnp.swapaxes(k_BSGK, 1, 2), jnp.swapaxes(v_BSGU, 1, 2)
  q_BGMK = q_BGJTK.reshape(B, G, -1, K)  # M: the rows of all query heads of one key/value head
  out_BGMU = _whole(q_BGMK, k_BGSK, v_BGSU, visible_BTS(queries, keys), scale)
  return jnp.moveaxis(out_BGMU.reshape(B, G, H // G, T, U), 3, 1).reshape(B, T, H, U)


def causal(
  q_BTHK, k_BSGK, v_BSGU, queries: Span, keys: Span, scale: float, block: int = QUERY_BLOCK
) -> jax.Array:
  """`whole` for keys that are the queries' own tokens: a block of queries meets no later keys."""
  T = q_BTHK.shape[1]
  bounds = np.linspace(0, T, max(1, round(T / block)) + 1).astype(int).tolist()

  def cut(x: Any, start: int, end: int) -> Any:
    return jax.tree.map(lambda a: a[:, start:end], x)

  blocks = [
    whole(
      cut(q_BTHK, a, b),
      cut(k_BSGK, 0, b),
      cut(v_BSGU, 0, b),
      cut(queries, a, b),
      cut(keys, 0, b),
      scale,
    )
    for a, b in zip(bounds, bounds[1:])
  ]
  return jnp.concatenate(blocks, axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _whole(q_BGMK, k_BGSK, v_BGSU, mask_BTS, scale: float) -> jax.Array:
  return _whole_forward(q_BGMK, k_BGSK, v_BGSU, mask_BTS, scale)[0]


def _masked(x_BGMS, mask_BTS, fill: float) -> jax.Array:
  B, G, M, S = x_BGMS.shape
  x = x_BGMS.reshape(B, G, -1, mask_BTS.shape[1], S)
  return jnp.where(mask_BTS[:, None, None], x, fill).reshape(B, G, M, S)


def _whole_scores(q_BGMK, k_BGSK, mask_BTS, scale: float) -> jax.Array:
  scores = jnp.einsum("bgmk,bgsk->bgms", q_BGMK, k_BGSK, preferred_element_type=jnp.float32)
  return _masked(scores * scale, mask_BTS, MASKED)


def _whole_forward(q_BGMK, k_BGSK, v_BGSU, mask_BTS, scale):
  scores = _whole_scores(q_BGMK, k_BGSK, mask_BTS, scale)
  top = scores.max(axis=-1, keepdims=True)
  weights = jnp.exp(scores - top)
  total = weights.sum(axis=-1, keepdims=True)
  weights = weights.astype(v_BGSU.dtype)
  out = jnp.einsum("bgms,bgsu->bgmu", weights, v_BGSU, preferred_element_type=jnp.float32)
  out = (out / total).astype(v_BGSU.dtype)
  return out, (q_BGMK, k_BGSK, v_BGSU, mask_BTS, out, top, 1 / total)


def _whole_backward(scale, saved, grad_BGMU):
  q_BGMK, k_BGSK, v_BGSU, mask_BTS, out_BGMU, top, share = saved
  weights = jnp.exp(_whole_scores(q_BGMK, k_BGSK, mask_BTS, scale) - top) * share
  dv = jnp.einsum("bgms,bgmu->bgsu", weights.astype(v_BGSU.dtype), grad_BGMU)
  dweights = jnp.einsum("bgmu,bgsu->bgms", grad_BGMU, v_BGSU, preferred_element_type=jnp.float32)
  dot = jnp.sum((grad_BGMU * out_BGMU).astype(jnp.float32), axis=-1, keepdims=True)
  # A row that sees nothing has uniform weights, through which no gradient goes to its scores.
  dscores = _masked(weights * (dweights - dot) * scale, mask_BTS, 0.0).astype(q_BGMK.dtype)
  dq = jnp.einsum("bgms,bgsk->bgmk", dscores, k_BGSK)
  return dq, jnp.einsum("bgms,bgmk->bgsk", dscores, q_BGMK), dv, None


_whole.defvjp(_whole_forward, _whole_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def blockwise(
  q_BTHK, k_BSGK, v_BSGU, queries: Span, keys: Span, scale: float, block: int
) -> jax.Array:
  """Attention that holds scores of only `block` keys at a time, forward and backward.

  Online softmax over key blocks (2205.14135); the backward pass recomputes each block's weights
  from the saved log-normaliser.
  """
  return _blockwise_forward(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale, block)[0]


def _blocks(x: jax.Array, block: int, fill: int = 0) -> jax.Array:
  """[B, S, ...] -> [S / block, B, block, ...], padded with `fill`."""
  pad = -x.shape[1] % block
  x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
  return jnp.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 1, 0)


def _key_blocks(k_BSGK, v_BSGU, keys: Span, block: int):
  """Key-side arrays in blocks; padding keys get segment -1, which no query has."""
  span = Span(_blocks(keys.positions_BT, block), _blocks(keys.segments_BT, block, fill=-1))
  return _blocks(k_BSGK, block), _blocks(v_BSGU, block), span


def _block_scores(q_BTGJK, k_BSGK, queries: Span, keys: Span, scale: float):
  """Scaled, masked float32 scores [B, G, J, T, S] of one block, and its mask."""
  scores = jnp.einsum("btgjk,bsgk->bgjts", q_BTGJK, k_BSGK, preferred_element_type=jnp.float32)
  mask = visible_BTS(queries, keys)[:, None, None]
  return jnp.where(mask, scores * scale, MASKED), mask


def _blockwise_forward(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale, block):
  B, T, H, K = q_BTHK.shape
  G, U = v_BSGU.shape[2], v_BSGU.shape[3]
  q = q_BTHK.reshape(B, T, G, H // G, K)

  def step(carry, key_block):
    top, total, out = carry  # running maximum and sum [B,G,J,T], output [B,G,J,T,U]
    k, v, span = key_block
    scores, mask = _block_scores(q, k, queries, span, scale)
    new_top = jnp.maximum(top, scores.max(axis=-1))
    weights = jnp.where(mask, jnp.exp(scores - new_top[..., None]), 0.0)
    fade = jnp.exp(top - new_top)
    total = total * fade + weights.sum(axis=-1)
    new = jnp.einsum("bgjts,bsgu->bgjtu", weights, v, preferred_element_type=jnp.float32)
    return (new_top, total, out * fade[..., None] + new), None

  shape = (B, G, H // G, T)
  start = (jnp.full(shape, MASKED), jnp.zeros(shape), jnp.zeros((*shape, U)))
  (top, total, out), _ = jax.lax.scan(step, start, _key_blocks(k_BSGK, v_BSGU, keys, block))
  total = jnp.where(total == 0, 1.0, total)  # a query that sees nothing gives zeros
  out = out / total[..., None]
  out_BTHU = jnp.moveaxis(out, 3, 1).reshape(B, T, H, U).astype(v_BSGU.dtype)
  residuals = (q_BTHK, k_BSGK, v_BSGU, queries, keys, out_BTHU, top + jnp.log(total))
  return out_BTHU, residuals


def _blockwise_backward(scale, block, residuals, grad_BTHU):
  q_BTHK, k_BSGK, v_BSGU, queries, keys, out_BTHU, log_norm = residuals
  B, T, H, K = q_BTHK.shape
  S, G = k_BSGK.shape[1], k_BSGK.shape[2]
  q = q_BTHK.reshape(B, T, G, H // G, K)
  grad = grad_BTHU.reshape(B, T, G, H // G, -1).astype(jnp.float32)
  dot = (grad * out_BTHU.reshape(grad.shape)).sum(axis=-1)  # [B,T,G,J]
  dot = jnp.moveaxis(dot, 1, 3)

  def step(dq, key_block):
    k, v, span = key_block
    scores, mask = _block_scores(q, k, queries, span, scale)
    weights = jnp.where(mask, jnp.exp(scores - log_norm[..., None]), 0.0)
    dv = jnp.einsum("bgjts,btgju->bsgu", weights, grad)
    dweights = jnp.einsum("btgju,bsgu->bgjts", grad, v.astype(jnp.float32))
    dscores = weights * (dweights - dot[..., None]) * scale
    dk = jnp.einsum("bgjts,btgjk->bsgk", dscores, q.astype(jnp.float32))
    return dq + jnp.einsum("bgjts,bsgk->btgjk", dscores, k.astype(jnp.float32)), (dk, dv)

  dq, (dk, dv) = jax.lax.scan(
    step, jnp.zeros(q.shape, jnp.float32), _key_blocks(k_BSGK, v_BSGU, keys, block)
  )

  def unblock(x):
    return jnp.moveaxis(x, 0, 1).reshape(B, -1, *x.shape[3:])[:, :S]

  dq = dq.reshape(q_BTHK.shape).astype(q_BTHK.dtype)
  return dq, unblock(dk).astype(k_BSGK.dtype), unblock(dv).astype(v_BSGU.dtype), None, None


blockwise.defvjp(_blockwise_forward, _blockwise_backward)
