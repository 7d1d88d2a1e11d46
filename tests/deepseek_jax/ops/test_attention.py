"""Attention equals a loop over queries; blockwise equals plain, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.ops.attention import attend, blockwise, causal, naive, single, whole
from deepseek_jax.types import SHARED, Span
from tests import traced

B, T, H, G, K, U = 2, 13, 4, 2, 6, 5
SCALE = 0.4


def inputs(seed, keys=T, groups=G, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  shapes = ((B, T, H, K), (B, keys, groups, K), (B, keys, groups, U), (B, T, H, U))
  return [rng.normal(size=s).astype(dtype) for s in shapes]


def span(positions, segments):
  return Span(np.asarray(positions, np.int32), np.asarray(segments, np.int32))


def packed(seed, length=T):
  """Rows of up to four segments with positions of their own, padding (segment 0) at the end."""
  rng = np.random.default_rng(seed)
  positions, segments = np.zeros((2, B, length), int)
  for b in range(B):
    cuts = sorted(rng.choice(np.arange(1, length), 4, replace=False))
    for s, (start, stop) in enumerate(zip([0, *cuts[:-1]], cuts), 1):
      positions[b, start:stop] = np.arange(stop - start)
      segments[b, start:stop] = s
    positions[b, cuts[-1] :] = np.arange(length - cuts[-1])
  return span(positions, segments)


CAUSAL = span(np.tile(np.arange(T), (B, 1)), np.ones((B, T)))
# Queries at the end of a cache of 20 slots, prompts padded on the left, three slots not written.
CACHED = span(np.tile(np.arange(4, 4 + T), (B, 1)), np.ones((B, T)))
SLOTS = span(
  np.maximum(np.arange(20) - [[0], [2]], 0), np.where(np.arange(20) < 17, 1, -1) * np.ones((B, 1))
)
SLOTS.segments_BT[1, :2] = 0
# A prompt, and three answers to it that do not see one another; the last three tokens are padding.
BRANCHES = span(
  np.tile([0, 1, 2, 3, 2, 3, 4, 2, 3, 4, 0, 1, 2], (B, 1)),
  np.tile(
    [1] * 2 + [SHARED + 1] * 2 + [2 * SHARED + 1] * 3 + [3 * SHARED + 1] * 3 + [0] * 3, (B, 1)
  ),
)
CASES = {
  "causal": (CAUSAL, CAUSAL),
  **{f"packed {seed}": (packed(seed), packed(seed)) for seed in range(3)},
  "cached": (CACHED, SLOTS),
  "shared": (BRANCHES, BRANCHES),
}


def slow(q_BTHK, k_BSGK, v_BSGU, queries, keys, scale):
  """One query of one head at a time."""
  q, k, v = (np.asarray(x, np.float64) for x in (q_BTHK, k_BSGK, v_BSGU))
  out = np.zeros((B, T, H, U))
  qp, qs = np.asarray(queries.positions_BT), np.asarray(queries.segments_BT)
  kp, ks = np.asarray(keys.positions_BT), np.asarray(keys.segments_BT)
  for b, t, h in np.ndindex(B, T, H):
    g = h // (H // k.shape[2])
    own = (qs[b, t], qs[b, t] % SHARED)
    seen = [s for s in range(k.shape[1]) if ks[b, s] in own and kp[b, s] <= qp[b, t]]
    scores = np.array([q[b, t, h] @ k[b, s, g] for s in seen]) * scale
    e = np.exp(scores - scores.max())
    out[b, t, h] = sum(w * v[b, s, g] for w, s in zip(e / e.sum(), seen))
  return out


FORMS = [(naive, None), (whole, None), (causal, 4), (blockwise, 4)]


def values_and_gradients(*args):
  """Attention and its three gradients, as NumPy arrays."""
  return jax.device_get(compiled(*args))


@functools.partial(jax.jit, static_argnums=(0, 7))
def compiled(fn, q, k, v, cotangent, queries, keys, block=None):
  options = () if block is None else (block,)
  out, pull = jax.vjp(lambda q, k, v: fn(q, k, v, queries, keys, SCALE, *options), q, k, v)
  return out, *pull(cotangent)


@pytest.mark.parametrize("case", CASES)
def test_naive_equals_a_loop_over_queries(case):
  queries, keys = CASES[case]
  q, k, v, cotangent = inputs(1, keys.positions_BT.shape[1])
  out = values_and_gradients(naive, q, k, v, cotangent, queries, keys)[0]
  np.testing.assert_allclose(out, slow(q, k, v, queries, keys, SCALE), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block", [4, 13, 32])  # many with a remainder, whole, one that is padded
def test_blockwise_equals_naive_in_values_and_gradients(case, block):
  queries, keys = CASES[case]
  args = (*inputs(2, keys.positions_BT.shape[1]), queries, keys)
  expected = values_and_gradients(naive, *args)
  got = values_and_gradients(blockwise, *args, block)
  for name, x, y in zip(("out", "dq", "dk", "dv"), got, expected):
    np.testing.assert_allclose(x, y, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_whole_equals_naive_in_values_and_gradients(case):
  queries, keys = CASES[case]
  args = (*inputs(2, keys.positions_BT.shape[1]), queries, keys)
  for name, x, y in zip(
    ("out", "dq", "dk", "dv"),
    values_and_gradients(whole, *args),
    values_and_gradients(naive, *args),
  ):
    np.testing.assert_allclose(x, y, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("case", [case for case in CASES if case != "cached"])
@pytest.mark.parametrize("block", [1, 5, 64])  # a query at a time, uneven blocks, one block
def test_causal_equals_naive_in_values_and_gradients(case, block):
  args = (*inputs(2, T), *CASES[case])
  expected, got = values_and_gradients(naive, *args), values_and_gradients(causal, *args, block)
  for name, x, y in zip(("out", "dq", "dk", "dv"), got, expected):
    np.testing.assert_allclose(x, y, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("fn", "block"), FORMS)
def test_what_is_masked_has_no_gradient_and_no_influence(fn, block):
  """Keys of another segment, keys to come and slots not written may hold anything, even 1e30."""
  q, k, v, cotangent = inputs(3, 20)
  unseen = np.array(SLOTS.segments_BT != 1)
  unseen |= np.asarray(SLOTS.positions_BT) > 16
  wild_k = np.where(unseen[..., None, None], np.float32(1e30), k)
  wild_v = np.where(unseen[..., None, None], np.float32(-7e3), v)
  expected = values_and_gradients(fn, q, k, v, cotangent, CACHED, SLOTS, block)
  got = values_and_gradients(fn, q, wild_k, wild_v, cotangent, CACHED, SLOTS, block)
  for x, y in zip(got, expected):
    np.testing.assert_allclose(x, y, atol=1e-5)
  assert not np.any(np.asarray(got[2])[unseen])
  assert not np.any(np.asarray(got[3])[unseen])


@pytest.mark.parametrize(("fn", "block"), FORMS)
def test_a_query_that_sees_nothing_is_finite_and_disturbs_no_other(fn, block):
  """Blockwise gives it zeros; the other forms the mean of the values they meet (see MASKED)."""
  q, k, v, cotangent = inputs(4)
  cotangent[:, 5] = 0
  lost = span(CAUSAL.positions_BT, np.where(np.arange(T) == 5, 9, CAUSAL.segments_BT))
  got = values_and_gradients(fn, q, k, v, cotangent, lost, CAUSAL, block)
  assert all(np.all(np.isfinite(x)) for x in got)
  whole = values_and_gradients(fn, q, k, v, cotangent, CAUSAL, CAUSAL, block)
  others = np.arange(T) != 5
  np.testing.assert_allclose(got[0][:, others], whole[0][:, others], atol=1e-6)
  for x, y in zip(got[1:], whole[1:]):
    np.testing.assert_allclose(x, y, atol=1e-6)
  met = 8 if fn is causal else None  # blocks of 4: the second meets the keys of two
  expected = 0 if fn is blockwise else np.repeat(v[:, :met].mean(axis=1), H // G, axis=1)
  np.testing.assert_allclose(got[0][:, 5], np.broadcast_to(expected, (B, H, U)), atol=1e-6)


@pytest.mark.parametrize(("fn", "block"), FORMS)
def test_grouped_heads_equal_repeated_heads(fn, block):
  q, k, v, cotangent = inputs(5)
  out, dq, dk, dv = values_and_gradients(fn, q, k, v, cotangent, CAUSAL, CAUSAL, block)
  repeat = functools.partial(np.repeat, repeats=H // G, axis=2)
  full = values_and_gradients(fn, q, repeat(k), repeat(v), cotangent, CAUSAL, CAUSAL, block)
  np.testing.assert_allclose(out, full[0], atol=1e-5)
  np.testing.assert_allclose(dq, full[1], atol=1e-5)
  for got, repeated in ((dk, full[2]), (dv, full[3])):
    summed = np.asarray(repeated).reshape(B, T, G, H // G, -1).sum(axis=3)
    np.testing.assert_allclose(got, summed, atol=1e-5)


@pytest.mark.parametrize(("fn", "block"), FORMS)
def test_large_scores_do_not_overflow(fn, block):
  """Scores up to some 1e5, rising over the keys, so that the running maximum keeps moving."""
  q, k, v, cotangent = inputs(6)
  rising = np.arange(1, T + 1, dtype=np.float32)[None, :, None, None]
  q, k = 300 * np.abs(q), np.abs(k) * rising * 5
  got = values_and_gradients(fn, q, k, v, cotangent, CAUSAL, CAUSAL, block)
  assert all(np.all(np.isfinite(x)) for x in got)
  np.testing.assert_allclose(got[0], slow(q, k, v, CAUSAL, CAUSAL, SCALE), atol=1e-2)


@pytest.mark.parametrize(("fn", "block"), FORMS)
def test_bfloat16_stays_bfloat16_and_near(fn, block):
  args = inputs(7)
  expected = values_and_gradients(naive, *args, CAUSAL, CAUSAL)
  half = [x.astype(jnp.bfloat16) for x in args]
  got = values_and_gradients(fn, *half, CAUSAL, CAUSAL, block)
  for x, y in zip(got, expected):
    assert x.dtype == jnp.bfloat16
    np.testing.assert_allclose(x.astype(np.float32), y, atol=0.1)


def biggest(fn, length, *options):
  """The largest array that a forward and backward pass over `length` tokens makes."""
  shapes = [jax.ShapeDtypeStruct((1, length, 2, 4), jnp.float32)] * 3
  where = Span(*[jax.ShapeDtypeStruct((1, length), jnp.int32)] * 2)

  def loss(q, k, v, where):
    return fn(q, k, v, where, where, SCALE, *options).sum()

  return traced.biggest_array(jax.grad(loss, argnums=(0, 1, 2)), *shapes, where)


def test_blockwise_never_holds_all_scores():
  length, block = 512, 32
  assert biggest(naive, length) >= 2 * length * length
  assert biggest(blockwise, length, block) == 2 * length * 4  # of an operand


def test_attend_cuts_the_keys_and_turns_blockwise_above_the_block():
  assert biggest(attend, 256, 256) == 2 * 64 * 256
  assert biggest(attend, 256, 16) <= 2 * 256 * 16


def test_causal_keeps_its_operands_once():
  q, k, v, _ = inputs(3)
  _, pull = jax.vjp(lambda q, k, v: causal(q, k, v, CAUSAL, CAUSAL, SCALE, 1), q, k, v)
  kept = sum(x.size for x in jax.tree.leaves(pull) if x.dtype != bool)
  assert kept == q.size + k.size + v.size + (B * T * H) * (U + 2)  # output, maximum, sum


def test_causal_meets_no_later_keys():
  """The products' sizes, which say what is computed: four blocks meet 5/8 of all pairs."""
  q, k, v = [np.ones((1, 16, 2, 4), np.float32)] * 3
  where = span(np.arange(16)[None], np.ones((1, 16)))

  def flops(fn, *options):
    lowered = jax.jit(lambda q, k, v: fn(q, k, v, where, where, SCALE, *options)).lower(q, k, v)
    return lowered.cost_analysis()["flops"]

  assert flops(causal, 4) < 0.75 * flops(whole)


@pytest.mark.parametrize("groups", [1, G, H])
@pytest.mark.parametrize("case", CASES)
def test_one_query_alone_attends_as_among_others(case, groups):
  queries, keys = CASES[case]
  q, k, v, _ = inputs(5, keys.positions_BT.shape[1], groups)
  together = naive(q, k, v, queries, keys, SCALE)
  for t in (0, T // 2, T - 1):
    one = jax.tree.map(lambda x: x[:, t : t + 1], queries)  # noqa: B023
    alone = single(q[:, t : t + 1], k, v, one, keys, SCALE)
    np.testing.assert_allclose(alone, together[:, t : t + 1], rtol=1e-5, atol=1e-6)
