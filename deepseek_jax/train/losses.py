"""The chunked cross-entropy, and which token is whose target.

This is the one place that multiplies by the output head in training. Rows are taken `chunk` at a
time, so that [N, V] logits never exist at once, not even in the backward pass, which either makes
the logits again (`token_logprobs`) or finds the gradient made during the forward pass
(`cross_entropy`, three matrix products of N x D x V in place of four). Logits and everything after
them are float32, whatever the hidden states are.

A chunk takes rows at a stride: row r of chunk c is row r * chunks + c. Hidden states whose rows
are laid out over devices keep their layout, where contiguous chunks would each lie on one device.

To score at a temperature, divide the hidden states by it.
"""

import functools

import jax
import jax.numpy as jnp

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
) -> tuple[jax.Array, jax.Array | None]:
  """Log-probability of each row's target and, if asked for, the entropy of its distribution.

  Both float32 and differentiable in `hidden_ND` and `head_DV`; `hidden_ND` comes after the final
  norm and `head_DV` in the compute dtype. At most about `chunk` rows of logits exist at a time.

  With `wanted_N` the other rows get zeros, and no chunk is computed that has none of those wanted:
  they are gathered in front, which rows that are laid out over devices had better not be.
  """
  if wanted_N is not None:
    return _wanted_logprobs(hidden_ND, head_DV, targets_N, chunk, with_entropy, wanted_N)
  rows = hidden_ND.shape[0]
  hidden, targets = split_rows(hidden_ND, chunk), split_rows(targets_N, chunk)
  logprob, entropy = _logprobs(with_entropy, hidden, head_DV, targets, jnp.int32(len(hidden)))
  return _join(logprob, rows), None if entropy is None else _join(entropy, rows)


def _wanted_logprobs(hidden_ND, head_DV, targets_N, chunk, with_entropy, wanted_N):
  """`token_logprobs` of some rows, in chunks of rows that follow one another."""
  count = hidden_ND.shape[0]
  order_N, size = jnp.argsort(~wanted_N, stable=True), min(chunk, count)

  def cut(x_N: jax.Array) -> jax.Array:
    x_N = jnp.pad(x_N[order_N], [(0, -count % size)] + [(0, 0)] * (x_N.ndim - 1))
    return x_N.reshape(-1, size, *x_N.shape[1:])

  used = -(-jnp.sum(wanted_N, dtype=jnp.int32) // size)
  logprob, entropy = _logprobs(with_entropy, cut(hidden_ND), head_DV, cut(targets_N), used)

  def put_back(x: jax.Array) -> jax.Array:
    x_N = jnp.zeros(count, x.dtype).at[order_N].set(x.reshape(-1)[:count], unique_indices=True)
    return jnp.where(wanted_N, x_N, 0.0)

  return put_back(logprob), None if entropy is None else put_back(entropy)


def cross_entropy(
  hidden_ND: jax.Array,
  head_DV: jax.Array,
  targets_N: jax.Array,
  weights_N: jax.Array,
  chunk: int = 1024,
) -> jax.Array:
  """Sum over rows of weight times -log p(target); its gradients are made in the forward pass.

  Not differentiable in `weights_N`.
  """
  hidden, targets = split_rows(hidden_ND, chunk), split_rows(targets_N, chunk)
  weights = split_rows(weights_N.astype(jnp.float32), chunk)
  return _weighted(hidden, head_DV, targets, jax.lax.stop_gradient(weights))


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
  return jnp.swapaxes(x, 0, 1).reshape(-1)[:count]


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs(
  with_entropy: bool, hidden: jax.Array, head_DV: jax.Array, targets: jax.Array, used: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
  """Of the first `used` chunks; the rest is zero."""
  return _logprobs_forward(with_entropy, hidden, head_DV, targets, used)[0]


def _logprobs_forward(with_entropy, hidden, head_DV, targets, used):
  def chunk(i, found):
    logits_NV = _logits(hidden[i], head_DV)
    total_N, mean_N = _total_and_mean(logits_NV)
    new = [_target_logits(logits_NV, targets[i]) - total_N, total_N]
    if with_entropy:
      new.append(total_N - mean_N)
    return [x.at[i].set(x_N) for x, x_N in zip(found, new)]

  start = [jnp.zeros(targets.shape, jnp.float32)] * (3 if with_entropy else 2)
  logprob, total, *entropy = jax.lax.fori_loop(0, used, chunk, start)
  entropy = entropy[0] if entropy else None
  return (logprob, entropy), (hidden, head_DV, targets, used, total, entropy)


def _logprobs_backward(with_entropy, saved, cotangents):
  hidden, head_DV, targets, used, total, entropy = saved

  def chunk(i, carry):
    dhead_DV, dhidden = carry
    rows = jax.tree.map(lambda x: x[i], (hidden, targets, total, entropy, cotangents))
    hidden_ND, targets_N, total_N, entropy_N, (dlogprob_N, dentropy_N) = rows
    logprobs_NV = _logits(hidden_ND, head_DV) - total_N[:, None]
    p_NV = jnp.exp(logprobs_NV)
    d_NV = dlogprob_N[:, None] * (_is_target(targets_N, head_DV.shape[1]) - p_NV)
    if with_entropy:  # dH/dz_j = -p_j (log p_j + H)
      d_NV -= dentropy_N[:, None] * p_NV * (logprobs_NV + entropy_N[:, None])
    dhidden_ND, more_DV = _pull_back(d_NV, hidden_ND, head_DV)
    return dhead_DV + more_DV, dhidden.at[i].set(dhidden_ND)

  start = (jnp.zeros(head_DV.shape, jnp.float32), jnp.zeros_like(hidden))
  dhead_DV, dhidden = jax.lax.fori_loop(0, used, chunk, start)
  return dhidden, dhead_DV.astype(head_DV.dtype), None, None


_logprobs.defvjp(_logprobs_forward, _logprobs_backward)


@jax.custom_vjp
def _weighted(
  hidden: jax.Array, head_DV: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
  logprob, _ = _logprobs(False, hidden, head_DV, targets, jnp.int32(len(hidden)))
  return -jnp.sum(weights * logprob)


def _weighted_forward(hidden, head_DV, targets, weights):
  def chunk(carry, rows):
    loss, dhead_DV = carry
    hidden_ND, targets_N, weights_N = rows
    logits_NV = _logits(hidden_ND, head_DV)
    total_N, _ = _total_and_mean(logits_NV)
    loss += jnp.sum(weights_N * (total_N - _target_logits(logits_NV, targets_N)))
    p_NV = jnp.exp(logits_NV - total_N[:, None])
    d_NV = weights_N[:, None] * (p_NV - _is_target(targets_N, head_DV.shape[1]))
    dhidden_ND, more_DV = _pull_back(d_NV, hidden_ND, head_DV)
    return (loss, dhead_DV + more_DV), dhidden_ND

  start = (jnp.zeros([], jnp.float32), jnp.zeros(head_DV.shape, jnp.float32))
  (loss, dhead_DV), dhidden = jax.lax.scan(chunk, start, (hidden, targets, weights))
  return loss, (dhidden, dhead_DV.astype(head_DV.dtype))


def _weighted_backward(saved, cotangent):
  dhidden, dhead_DV = saved
  return (
    (cotangent * dhidden).astype(dhidden.dtype),
    (cotangent * dhead_DV).astype(dhead_DV.dtype),
    None,
    None,
  )


_weighted.defvjp(_weighted_forward, _weighted_backward)
