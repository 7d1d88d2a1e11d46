"""Masked attention over grouped key/value heads, in the form that its lengths call for.

One pair of functions serves every form: grouped-query attention; MLA expanded to full heads
(G = H); and MLA absorbed, where the latent itself is one key/value head (G = 1). Softmax is
float32. Query and key width (K below) is whatever the form makes it; U is the value width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.ops.blockwise import blockwise
from deepseek_jax.ops.visibility import MASKED, visible_BTS
from deepseek_jax.types import Span

QUERY_BLOCK = 64  # rows of queries that share a cut of the keys, where these are in causal order


def attend(
  q_BTHK: jax.Array,
  k_BSGK: jax.Array,
  v_BSGU: jax.Array,
  queries: Span,
  keys: Span,
  scale: float,
  block: int,
  devices: tuple[int, int] = (1, 1),
) -> jax.Array:
  """Attention output [B, T, H, U]; blockwise when several queries meet more than `block` keys.

  As many keys as queries are the same tokens in the same order, of which none may see a later one.
  """
  if q_BTHK.shape[1] == 1:
    return single(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale)
  if k_BSGK.shape[1] > block:
    return blockwise(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale, block, devices)
  form = causal if q_BTHK.shape[1] == k_BSGK.shape[1] else whole
  return form(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale)


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
