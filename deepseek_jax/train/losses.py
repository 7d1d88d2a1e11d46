"""The chunked cross-entropy, and which token is whose target.

This is the one place that multiplies by the output head in training. Rows are taken `chunk` at a
time, so that [N, V] logits never exist at once, not even in the backward pass, which either makes
the logits again (`token_logprobs`) or finds the gradient made during the forward pass
(`cross_entropy`, three matrix products of N x D x V in place of four). Logits and everything after
them are float32, whatever the hidden states are.

On a mesh each device takes its own rows and the whole head, and the head's gradient is added up
over devices once, behind the loop over chunks. A chunk takes rows at a stride: row r of chunk c is
row r * chunks + c.

To score at a temperature, divide the hidden states by it.
"""

import functools

import jax
import jax.numpy as jnp

from deepseek_jax.sharding import by_rows
from deepseek_jax.types import Batch

_BLOCKS = 256  # of a row of logits, added up apart


def shift_targets(batch: Batch, depth: int = 0) -> tuple[jax.Array, jax.Array]:
  """Targets [..., T] of each position and their weights: position t predicts token t + 1 + depth.

  The weight is the target's `loss_mask_BT`, and 0 where the target lies in another segment, in the
  padding or past the end. Depth k is the k-th MTP module's, 2412.19437 section 2.2.
  """
  ahead = depth + 1

  def shift(x: jax.Array) -> jax.Array:
    pad = jnp.zeros_like(x[..., :ahead])
    return jnp.concatenate([x[..., ahead:], pad], axis=-1)

  segments_BT = shift(batch.segments_BT)
  same_BT = (segments_BT == batch.segments_BT) & (segments_BT > 0)
  return shift(batch.tokens_BT), shift(batch.loss_mask_BT) * same_BT


def token_logprobs(
  hidden_ND: jax.Array,
  head_DV: jax.Array,
  targets_N: jax.Array,
  chunk: int = 1024,
  with_entropy: bool = False,
  wanted_N: jax.Array | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, jax.Array | None]:
  """Log-probability of each row's target and, if asked for, the entropy of its distribution.

  Both float32 and differentiable in `hidden_ND` and `head_DV`; `hidden_ND` comes after the final
  norm and `head_DV` in the compute dtype. At most `chunk` rows of logits exist at a time on a
  device.

  With `wanted_N` the other rows get zeros, and no chunk is computed that has none of those wanted:
  each device gathers its own in front.
  """
  return _logprobs(mesh, chunk, with_entropy, hidden_ND, head_DV, targets_N, wanted_N)


def cross_entropy(
  hidden_ND: jax.Array,
  head_DV: jax.Array,
  targets_N: jax.Array,
  weights_N: jax.Array,
  chunk: int = 1024,
  mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
  """Sum over rows of weight times -log p(target); its gradients are made in the forward pass.

  Not differentiable in `weights_N`. At most `chunk` rows of logits exist at a time on a device.
  """
  weights_N = jax.lax.stop_gradient(weights_N.astype(jnp.float32))
  return _weighted(mesh, chunk, hidden_ND, head_DV, targets_N, weights_N)


def split_rows(x_N: jax.Array, chunk: int) -> jax.Array:
  """[N, ...] -> [chunks, rows, ...], strided, padded with zeros."""
  count = x_N.shape[0]
  chunks = max(1, -(-count // chunk))
  rows = -(-count // chunks)
  if rows * chunks > count:
    x_N = jnp.pad(x_N, [(0, rows * chunks - count)] + [(0, 0)] * (x_N.ndim - 1))
  return jnp.swapaxes(x_N.reshape(rows, chunks, *x_N.shape[1:]), 0, 1)


def _join(x: jax.Array, count: int) -> jax.Array:
  """The inverse of `split_rows`."""
  return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:count]


class _Chunks:
  """Rows in chunks: all of them, or those wanted in front, with `used` chunks that have some."""

  def __init__(self, count: int, chunk: int, wanted_N: jax.Array | None):
    self.count, self.chunk, self.wanted_N = count, chunk, wanted_N
    if wanted_N is None:
      self.used = jnp.int32(max(1, -(-count // chunk)))
    else:
      self.chunk = min(chunk, count)
      self.order_N = jnp.argsort(~wanted_N, stable=True)
      self.used = -(-jnp.sum(wanted_N, dtype=jnp.int32) // self.chunk)

  def cut(self, x_N: jax.Array) -> jax.Array:
    """[N, ...] -> [chunks, rows, ...], padded with zeros."""
    if self.wanted_N is None:
      return split_rows(x_N, self.chunk)
    padding = [(0, -self.count % self.chunk)] + [(0, 0)] * (x_N.ndim - 1)
    return jnp.pad(x_N[self.order_N], padding).reshape(-1, self.chunk, *x_N.shape[1:])

  def join(self, x: jax.Array) -> jax.Array:
    """The inverse; what lies in chunks that are not used has no meaning."""
    if self.wanted_N is None:
      return _join(x, self.count)
    x_N = x.reshape(-1, *x.shape[2:])[: self.count]
    return jnp.zeros_like(x_N).at[self.order_N].set(x_N, unique_indices=True)

  def masked(self, x_N: jax.Array) -> jax.Array:
    """`x_N`, zero where it is not wanted."""
    return x_N if self.wanted_N is None else jnp.where(self.wanted_N, x_N, 0.0)


def _logits(hidden_ND: jax.Array, head_DV: jax.Array) -> jax.Array:
  return jnp.dot(hidden_ND, head_DV, preferred_element_type=jnp.float32)


def _pull_back(
  dlogits_NV: jax.Array, hidden_ND: jax.Array, head_DV: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradients of one chunk: of the hidden states in their dtype, of the head in float32.

  Behind a barrier the transposed operand is a small copy; without, XLA contracts over rows, which
  on a CPU takes more than twice as long where the vocabulary is large (437 ms against 183 for 1024
  rows of SmolLM2's).
  """
  d_NV = dlogits_NV.astype(head_DV.dtype)
  dhidden_ND = jax.lax.dot_general(d_NV, head_DV, (((1,), (1,)), ((), ())))
  hidden_DN = jax.lax.optimization_barrier(hidden_ND.T)
  dhead_DV = jnp.dot(hidden_DN, d_NV, preferred_element_type=jnp.float32)
  return dhidden_ND.astype(hidden_ND.dtype), dhead_DV


def _total_and_mean(logits_NV: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Each row's log-normaliser, and the mean of its logits under their softmax."""
  top_N1 = logits_NV.max(axis=-1, keepdims=True)
  shares_NV = jnp.exp(logits_NV - top_N1)
  total_N = _row_sums(shares_NV)
  return jnp.log(total_N) + top_N1[:, 0], _row_sums(shares_NV * logits_NV) / total_N


def _row_sums(x_NV: jax.Array) -> jax.Array:
  """Sums over V, by blocks where V has them: XLA on a CPU else writes all of x down first.

  It is their number that is fixed, so that a V laid out over devices stays so.
  """
  if x_NV.shape[1] % _BLOCKS:
    return jnp.sum(x_NV, axis=-1)
  blocks_NI = jnp.sum(x_NV.reshape(len(x_NV), _BLOCKS, -1), axis=-1)
  return jnp.sum(jax.lax.optimization_barrier(blocks_NI), axis=-1)


def _is_target(targets_N: jax.Array, vocab: int) -> jax.Array:
  return targets_N[:, None] == jnp.arange(vocab, dtype=targets_N.dtype)


def _target_logits(logits_NV: jax.Array, targets_N: jax.Array) -> jax.Array:
  return jnp.take_along_axis(logits_NV, targets_N[:, None], axis=-1)[:, 0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _logprobs(mesh, chunk, with_entropy, hidden_ND, head_DV, targets_N, wanted_N):
  return _logprobs_forward(mesh, chunk, with_entropy, hidden_ND, head_DV, targets_N, wanted_N)[0]


def _logprobs_forward(mesh, chunk, with_entropy, hidden_ND, head_DV, targets_N, wanted_N):
  def own(head_DV, hidden_ND, targets_N, wanted_N):
    chunks = _Chunks(len(targets_N), chunk, wanted_N)
    hidden, targets = chunks.cut(hidden_ND), chunks.cut(targets_N)

    def add(i, found):
      logits_NV = _logits(hidden[i], head_DV)
      total_N, mean_N = _total_and_mean(logits_NV)
      new = [total_N, _target_logits(logits_NV, targets[i]) - total_N]
      if with_entropy:
        new.append(total_N - mean_N)
      return [x.at[i].set(x_N) for x, x_N in zip(found, new)]

    start = [jnp.zeros(targets.shape, jnp.float32)] * (3 if with_entropy else 2)
    total_N, *found = map(chunks.join, jax.lax.fori_loop(0, chunks.used, add, start))
    return None, None, (total_N, *map(chunks.masked, found))

  _, _, rows = by_rows(mesh, own, head_DV, (hidden_ND, targets_N, wanted_N))
  total_N, logprob_N, *entropy = rows
  entropy_N = entropy[0] if entropy else None
  saved = hidden_ND, head_DV, targets_N, wanted_N, total_N, entropy_N
  return (logprob_N, entropy_N), saved


def _logprobs_backward(mesh, chunk, with_entropy, saved, cotangents):
  hidden_ND, head_DV, targets_N, wanted_N, total_N, entropy_N = saved

  def own(head_DV, wanted_N, *rows):
    chunks = _Chunks(len(rows[0]), chunk, wanted_N)
    *rows, cotangents = rows
    cut = jax.tree.map(chunks.cut, (*rows, jax.tree.map(chunks.masked, cotangents)))

    def add(i, carry):
      dhead_DV, dhidden = carry
      rows = jax.tree.map(lambda x: x[i], cut)
      hidden_ND, targets_N, total_N, entropy_N, (dlogprob_N, dentropy_N) = rows
      logprobs_NV = _logits(hidden_ND, head_DV) - total_N[:, None]
      p_NV = jnp.exp(logprobs_NV)
      d_NV = dlogprob_N[:, None] * (_is_target(targets_N, head_DV.shape[1]) - p_NV)
      if with_entropy:  # dH/dz_j = -p_j (log p_j + H)
        d_NV -= dentropy_N[:, None] * p_NV * (logprobs_NV + entropy_N[:, None])
      dhidden_ND, more_DV = _pull_back(d_NV, hidden_ND, head_DV)
      return dhead_DV + more_DV, dhidden.at[i].set(dhidden_ND)

    start = (jnp.zeros(head_DV.shape, jnp.float32), jnp.zeros_like(cut[0]))
    dhead_DV, dhidden = jax.lax.fori_loop(0, chunks.used, add, start)
    return None, dhead_DV, chunks.join(dhidden)

  rows = (wanted_N, hidden_ND, targets_N, total_N, entropy_N, cotangents)
  _, dhead_DV, dhidden_ND = by_rows(mesh, own, head_DV, rows)
  return dhidden_ND, dhead_DV.astype(head_DV.dtype), None, None


_logprobs.defvjp(_logprobs_forward, _logprobs_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted(mesh, chunk, hidden_ND, head_DV, targets_N, weights_N):
  logprob_N, _ = _logprobs(mesh, chunk, False, hidden_ND, head_DV, targets_N, None)
  return -jnp.sum(weights_N * logprob_N)


def _weighted_forward(mesh, chunk, hidden_ND, head_DV, targets_N, weights_N):
  def add(head_DV, carry, rows):
    loss, dhead_DV = carry
    hidden_ND, targets_N, weights_N = rows
    logits_NV = _logits(hidden_ND, head_DV)
    total_N, _ = _total_and_mean(logits_NV)
    loss += jnp.sum(weights_N * (total_N - _target_logits(logits_NV, targets_N)))
    p_NV = jnp.exp(logits_NV - total_N[:, None])
    d_NV = weights_N[:, None] * (p_NV - _is_target(targets_N, head_DV.shape[1]))
    dhidden_ND, more_DV = _pull_back(d_NV, hidden_ND, head_DV)
    return (loss, dhead_DV + more_DV), dhidden_ND

  def own(head_DV, *rows):
    start = (jnp.zeros([], jnp.float32), jnp.zeros(head_DV.shape, jnp.float32))
    cut = tuple(split_rows(x_N, chunk) for x_N in rows)
    (loss, dhead_DV), dhidden = jax.lax.scan(functools.partial(add, head_DV), start, cut)
    return loss, dhead_DV, _join(dhidden, len(rows[0]))

  found = by_rows(mesh, own, head_DV, (hidden_ND, targets_N, weights_N))
  # Else a compiler may keep each device's part of the head's gradient until the step ends.
  loss, dhead_DV, dhidden_ND = found if mesh is None else jax.lax.optimization_barrier(found)
  return loss, (dhidden_ND, dhead_DV.astype(head_DV.dtype))


def _weighted_backward(mesh, chunk, saved, cotangent):
  dhidden_ND, dhead_DV = saved
  return (
    (cotangent * dhidden_ND).astype(dhidden_ND.dtype),
    (cotangent * dhead_DV).astype(dhead_DV.dtype),
    None,
    None,
  )


_weighted.defvjp(_weighted_forward, _weighted_backward)
