"""Masked attention over grouped key/value heads, in the form that its lengths call for.

One pair of functions serves every form: grouped-query attention; MLA expanded to full heads
(G = H); and MLA absorbed, where the latent itself is one key/value head (G = 1). Softmax is
float32. Query and key width (K below) is whatever the form makes it; U is the value width.
"""

import functools
from typing import NamedTuple

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
  T, S = q_BTHK.shape[1], k_BSGK.shape[1]
  return _by_strips(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale, (Strip(0, T, S),))


def causal(
  q_BTHK, k_BSGK, v_BSGU, queries: Span, keys: Span, scale: float, block: int = QUERY_BLOCK
) -> jax.Array:
  """`whole` for keys that are the queries' own tokens: a block of queries meets no later keys."""
  T = q_BTHK.shape[1]
  bounds = np.linspace(0, T, max(1, round(T / block)) + 1).astype(int).tolist()
  strips = tuple(Strip(start, end, end) for start, end in zip(bounds, bounds[1:]))
  return _by_strips(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale, strips)


class Strip(NamedTuple):
  """Queries from `start` to `end`, which meet the first `met` keys."""

  start: int
  end: int
  met: int

  def queries(self, x_BGJTK: jax.Array) -> jax.Array:
    """Theirs, [B, G, M, K]; M are the rows of all query heads of one key/value head."""
    x = x_BGJTK[:, :, :, self.start : self.end]
    return x.reshape(*x.shape[:2], -1, x.shape[-1])

  def split(self, x_BGMK: jax.Array) -> jax.Array:
    """The same by head, [B, G, J, T, K]."""
    B, G, _, K = x_BGMK.shape
    return x_BGMK.reshape(B, G, -1, self.end - self.start, K)

  def mask_BTS(self, queries: Span, keys: Span) -> jax.Array:
    """What is visible."""
    own = Span(*(x[:, self.start : self.end] for x in (queries.positions_BT, queries.segments_BT)))
    met = Span(*(x[:, : self.met] for x in (keys.positions_BT, keys.segments_BT)))
    return visible_BTS(own, met)


def _by_strips(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale, strips) -> jax.Array:
  B, T, H, K = q_BTHK.shape
  G, U = v_BSGU.shape[2], v_BSGU.shape[3]
  q_BGJTK = jnp.moveaxis(q_BTHK.reshape(B, T, G, H // G, K), 1, 3)
  k_BGSK, v_BGSU = (jnp.swapaxes(x[:, : strips[-1].met], 1, 2) for x in (k_BSGK, v_BSGU))
  masks = [strip.mask_BTS(queries, keys) for strip in strips]
  out_BGJTU = _strips(q_BGJTK, k_BGSK, v_BGSU, masks, scale, strips)
  return jnp.moveaxis(out_BGJTU, 3, 1).reshape(B, T, H, U)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _strips(q_BGJTK, k_BGSK, v_BGSU, masks, scale: float, strips: tuple[Strip, ...]) -> jax.Array:
  return _strips_forward(q_BGJTK, k_BGSK, v_BGSU, masks, scale, strips)[0]


def _masked(x_BGMS, mask_BTS, fill: float) -> jax.Array:
  B, G, M, S = x_BGMS.shape
  x = x_BGMS.reshape(B, G, -1, mask_BTS.shape[1], S)
  return jnp.where(mask_BTS[:, None, None], x, fill).reshape(B, G, M, S)


def _strip_scores(q_BGMK, k_BGSK, mask_BTS, scale: float) -> jax.Array:
  scores = jnp.einsum("bgmk,bgsk->bgms", q_BGMK, k_BGSK, preferred_element_type=jnp.float32)
  return _masked(scores * scale, mask_BTS, MASKED)


def _strips_forward(q_BGJTK, k_BGSK, v_BGSU, masks, scale, strips):
  outs, kept = [], []
  for strip, mask_BTS in zip(strips, masks):
    k, v = k_BGSK[:, :, : strip.met], v_BGSU[:, :, : strip.met]
    scores = _strip_scores(strip.queries(q_BGJTK), k, mask_BTS, scale)
    top = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = jnp.einsum("bgms,bgsu->bgmu", weights, v, preferred_element_type=jnp.float32)
    outs.append(strip.split((out / total).astype(v.dtype)))
    kept.append((top, 1 / total))
  out_BGJTU = jnp.concatenate(outs, axis=3)
  return out_BGJTU, (q_BGJTK, k_BGSK, v_BGSU, masks, out_BGJTU, kept)


def _strips_backward(scale, strips, saved, grad_BGJTU):
  q_BGJTK, k_BGSK, v_BGSU, masks, out_BGJTU, kept = saved
  dqs, dk, dv = [], None, None
  for strip, mask_BTS, (top, share) in reversed(list(zip(strips, masks, kept))):
    q, out, grad = (strip.queries(x) for x in (q_BGJTK, out_BGJTU, grad_BGJTU))
    k, v = k_BGSK[:, :, : strip.met], v_BGSU[:, :, : strip.met]
    weights = jnp.exp(_strip_scores(q, k, mask_BTS, scale) - top) * share
    dweights = jnp.einsum("bgmu,bgsu->bgms", grad, v, preferred_element_type=jnp.float32)
    dot = jnp.sum((grad * out).astype(jnp.float32), axis=-1, keepdims=True)
    # A row that sees nothing has uniform weights, through which no gradient goes to its scores.
    dscores = _masked(weights * (dweights - dot) * scale, mask_BTS, 0.0).astype(q.dtype)
    dqs.append(strip.split(jnp.einsum("bgms,bgsk->bgmk", dscores, k)))
    dk = _plus(dk, jnp.einsum("bgms,bgmk->bgsk", dscores, q))
    dv = _plus(dv, jnp.einsum("bgms,bgmu->bgsu", weights.astype(v.dtype), grad))
  return jnp.concatenate(dqs[::-1], axis=3), dk, dv, None


def _plus(sum_BGSK: jax.Array | None, new_BGSK: jax.Array) -> jax.Array:
  """With what is new added to the first keys; the last strip, which meets all, comes first."""
  return new_BGSK if sum_BGSK is None else sum_BGSK.at[:, :, : new_BGSK.shape[2]].add(new_BGSK)


_strips.defvjp(_strips_forward, _strips_backward)
