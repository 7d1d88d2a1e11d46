"""The GRPO objective against a derivation by hand in NumPy, and its invariances."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.train.policy import PolicyKnobs, RatioLevel, objective
from deepseek_jax.types import Batch, RolloutBatch

VOCAB = 7
SEGMENTS_BT = np.array([[1] * 5 + [2] * 4 + [0] * 3, [1] * 7 + [2] * 5])
PROMPT = 2  # leading tokens of each sequence that are not trained on


def make_rollout(seed: int, spread: float) -> RolloutBatch:
  """Random sequences whose old and reference log-probabilities lie `spread` from the policy's."""
  rng = np.random.default_rng(seed)
  b, t = SEGMENTS_BT.shape
  mask_BT = np.zeros((b, t), np.float32)
  positions_BT = np.zeros((b, t), np.int32)
  advantage_BT = np.zeros((b, t), np.float32)
  for row, segment in itertools.product(range(b), (1, 2)):
    where = np.flatnonzero(SEGMENTS_BT[row] == segment)
    positions_BT[row, where] = np.arange(where.size)
    mask_BT[row, where[PROMPT:]] = 1
    advantage_BT[row, where] = rng.normal()
  tokens_BT = rng.integers(0, VOCAB, (b, t))
  policy_BT = policy_logprobs_np(table_np(), tokens_BT)
  return RolloutBatch(
    batch=Batch(tokens_BT, positions_BT, SEGMENTS_BT, mask_BT),
    advantage_BT=advantage_BT * mask_BT,
    weight_BT=mask_BT * rng.uniform(0.05, 0.2, (b, t)).astype(np.float32),
    old_logprob_BT=mask_BT * (policy_BT + spread * rng.normal(size=(b, t))).astype(np.float32),
    ref_logprob_BT=mask_BT * (policy_BT + 0.5 * rng.normal(size=(b, t))).astype(np.float32),
    experts_LBTA=np.zeros((0, b, t, 1), np.int32),
  )


def table_np() -> np.ndarray:
  return np.random.default_rng(0).normal(size=(VOCAB, VOCAB))


def policy_logprobs_np(table_VV: np.ndarray, tokens_BT: np.ndarray) -> np.ndarray:
  """log pi of each token given the token before it, zero at t = 0, for a linear softmax policy."""
  log_softmax_VV = table_VV - np.log(np.exp(table_VV).sum(1, keepdims=True))
  logprob_BT = np.zeros(tokens_BT.shape)
  logprob_BT[:, 1:] = log_softmax_VV[tokens_BT[:, :-1], tokens_BT[:, 1:]]
  return logprob_BT


def policy_logprobs(table_VV: jax.Array, tokens_BT: jax.Array) -> jax.Array:
  log_softmax_VV = jax.nn.log_softmax(table_VV, axis=1)
  return jnp.pad(log_softmax_VV[tokens_BT[:, :-1], tokens_BT[:, 1:]], ((0, 0), (1, 0)))


def by_hand(table_VV: np.ndarray, rollout: RolloutBatch, knobs: PolicyKnobs):
  """Loss, d loss / d table, and clipped tokens (low, high), from the formulas, in float64.

  With rho the ratio of token t or of its sequence, d rho_t / d log pi_u is rho_t for u = t (token),
  rho_t for each u of the sequence (sum) and rho_t / |o| for each u of the sequence (mean).
  d log pi(v) / d logits = onehot(v) - softmax.
  """
  tokens_BT = rollout.batch.tokens_BT
  logprob_BT = policy_logprobs_np(table_VV, tokens_BT)
  softmax_VV = np.exp(table_VV) / np.exp(table_VV).sum(1, keepdims=True)
  loss, low, high = 0.0, 0, 0
  slope_BT = np.zeros(tokens_BT.shape)  # d loss / d log pi
  for row, segment in itertools.product(range(len(tokens_BT)), (1, 2)):
    mask_T = (SEGMENTS_BT[row] == segment) & (rollout.batch.loss_mask_BT[row] > 0)
    inside = np.flatnonzero(mask_T)
    difference = logprob_BT[row, inside] - rollout.old_logprob_BT[row, inside]
    for t, own in zip(inside, difference):
      log_ratio, reached, share = {
        RatioLevel.TOKEN: (own, [t], 1.0),
        RatioLevel.SEQUENCE_SUM: (difference.sum(), inside, 1.0),
        RatioLevel.SEQUENCE_MEAN: (difference.mean(), inside, 1.0 / len(inside)),
      }[knobs.ratio_level]
      ratio, advantage = np.exp(log_ratio), rollout.advantage_BT[row, t]
      weight = rollout.weight_BT[row, t]
      too_low = advantage < 0 and ratio < 1 - knobs.clip_low
      too_high = advantage > 0 and ratio > 1 + knobs.clip_high
      low, high = low + too_low, high + too_high
      if too_low:
        loss -= weight * (1 - knobs.clip_low) * advantage
      elif too_high:
        loss -= weight * (1 + knobs.clip_high) * advantage
      else:
        loss -= weight * ratio * advantage
        for u in reached:
          slope_BT[row, u] -= weight * ratio * advantage * share
      log_ref = rollout.ref_logprob_BT[row, t] - logprob_BT[row, t]
      loss += weight * knobs.kl_k1 * -log_ref
      loss += weight * knobs.kl_k2 * log_ref**2 / 2
      loss += weight * knobs.kl_k3 * (np.exp(log_ref) - log_ref - 1)
      slope_BT[row, t] += weight * knobs.kl_k1
      slope_BT[row, t] += weight * knobs.kl_k2 * -log_ref
      slope_BT[row, t] += weight * knobs.kl_k3 * (1 - np.exp(log_ref))
  gradient_VV = np.zeros_like(table_VV)
  for row, t in np.argwhere(slope_BT != 0):
    previous, token = tokens_BT[row, t - 1], tokens_BT[row, t]
    gradient_VV[previous] -= slope_BT[row, t] * softmax_VV[previous]
    gradient_VV[previous, token] += slope_BT[row, t]
  return loss, gradient_VV, low, high


@jax.jit
def value_and_gradient(table_VV, rollout, knobs):
  def loss_of(table_VV):
    return objective(policy_logprobs(table_VV, rollout.batch.tokens_BT), rollout, knobs)

  return jax.value_and_grad(loss_of, has_aux=True)(table_VV)


@pytest.mark.parametrize("level", list(RatioLevel))
@pytest.mark.parametrize("kl", ["none", "kl_k1", "kl_k2", "kl_k3"])
def test_loss_and_gradient_equal_the_derivation_by_hand(level, kl):
  knobs = PolicyKnobs(clip_low=0.1, clip_high=0.3, ratio_level=level)
  if kl != "none":
    knobs = dataclasses.replace(knobs, **{kl: 0.7})
  clipped_low, clipped_high = 0, 0
  for seed in range(6):
    rollout = make_rollout(seed, spread=0.6)
    want_loss, want_gradient, low, high = by_hand(table_np(), rollout, knobs)
    (loss, sums), gradient = value_and_gradient(jnp.asarray(table_np()), rollout, knobs)
    np.testing.assert_allclose(loss, want_loss, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, rtol=2e-4, atol=2e-6)
    assert (sums.clipped_low, sums.clipped_high) == (low, high)
    assert sums.tokens == rollout.batch.loss_mask_BT.sum()
    clipped_low, clipped_high = clipped_low + low, clipped_high + high
  assert clipped_low > 0 and clipped_high > 0, "the seeds must reach both clips"


def test_all_settings_share_one_compilation():
  before = value_and_gradient._cache_size()
  rollout = make_rollout(0, spread=0.1)
  for level in RatioLevel:
    value_and_gradient(
      jnp.asarray(table_np()), rollout, PolicyKnobs(ratio_level=level, kl_k1=0.3, clip_low=0.05)
    )
  assert value_and_gradient._cache_size() <= max(before, 1)


@pytest.mark.parametrize("level", list(RatioLevel))
def test_on_policy_the_gradient_is_that_of_reinforce(level):
  rollout = make_rollout(3, spread=0.0)
  tokens_BT = rollout.batch.tokens_BT
  (_, sums), gradient_VV = value_and_gradient(
    jnp.asarray(table_np()), rollout, PolicyKnobs(ratio_level=level)
  )
  np.testing.assert_allclose(sums.ratio / sums.tokens, 1.0, rtol=1e-5)

  # A sequence's whole weight reaches each token's log-probability at the sequence levels.
  share_BT = np.array(rollout.weight_BT)
  for row, segment in itertools.product(range(2), (1, 2)):
    where = (SEGMENTS_BT[row] == segment) & (rollout.batch.loss_mask_BT[row] > 0)
    if level != RatioLevel.TOKEN:
      total = rollout.weight_BT[row, where].sum()
      share_BT[row, where] = total / (where.sum() if level == RatioLevel.SEQUENCE_MEAN else 1)

  def reinforce(table_VV):
    return -jnp.sum(share_BT * rollout.advantage_BT * policy_logprobs(table_VV, tokens_BT))

  np.testing.assert_allclose(
    gradient_VV, jax.grad(reinforce)(jnp.asarray(table_np())), rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize("level", list(RatioLevel))
def test_a_packed_sequence_weighs_as_it_does_alone(level):
  knobs = PolicyKnobs(ratio_level=level, kl_k3=0.2)
  packed = make_rollout(5, spread=0.4)
  (loss, _), gradient_VV = value_and_gradient(jnp.asarray(table_np()), packed, knobs)
  alone_loss, alone_gradient_VV = 0.0, 0.0
  for row, segment in itertools.product(range(2), (1, 2)):
    only_BT = np.zeros_like(SEGMENTS_BT)
    only_BT[row] = SEGMENTS_BT[row] == segment
    alone = dataclasses.replace(
      packed,
      batch=dataclasses.replace(
        packed.batch, segments_BT=only_BT, loss_mask_BT=packed.batch.loss_mask_BT * only_BT
      ),
    )
    (one, _), one_gradient_VV = value_and_gradient(jnp.asarray(table_np()), alone, knobs)
    alone_loss, alone_gradient_VV = alone_loss + one, alone_gradient_VV + one_gradient_VV
  np.testing.assert_allclose(loss, alone_loss, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(gradient_VV, alone_gradient_VV, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("level", list(RatioLevel))
def test_a_far_off_policy_sequence_gives_a_finite_gradient(level):
  rollout = make_rollout(1, spread=0.0)
  far = dataclasses.replace(rollout, old_logprob_BT=rollout.old_logprob_BT - 200.0)
  (loss, _), gradient_VV = value_and_gradient(
    jnp.asarray(table_np()), far, PolicyKnobs(ratio_level=level, kl_k3=0.1)
  )
  assert np.isfinite(loss) and np.all(np.isfinite(gradient_VV))
