"""Truncated importance sampling against the formula written out, and where it must do nothing."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.sharding import MeshConfig, make_mesh, shard_batch
from deepseek_jax.train.correction import LEVELS, correct
from deepseek_jax.train.policy import PolicyKnobs, RatioLevel, objective
from deepseek_jax.types import SHARED, Batch, RolloutBatch

VOCAB = 7
# Two micro-batches of one row; in the second two sequences share a prompt of two tokens.
SEGMENTS_MBT = np.array(
  [
    [[1] * 5 + [2] * 4 + [0] * 3],
    [[1] * 2 + [1 + 2 * SHARED] * 5 + [1 + 3 * SHARED] * 4 + [0]],
  ]
)
SEQUENCES = [(0, range(2, 5)), (0, range(7, 9)), (1, range(3, 7)), (1, range(8, 11))]
CAP = 1.3


def table_np():
  return np.random.default_rng(0).normal(size=(VOCAB, VOCAB))


def logprobs(table_VV, tokens_BT):
  """log pi of each token given the one before it, of a linear softmax policy."""
  log_softmax_VV = jax.nn.log_softmax(table_VV, axis=1)
  return jnp.pad(log_softmax_VV[tokens_BT[:, :-1], tokens_BT[:, 1:]], ((0, 0), (1, 0)))


def make(spread: float) -> tuple[RolloutBatch, np.ndarray]:
  """A rollout whose sampler lies `spread` from the trainer, and the trainer's log-probabilities."""
  rng = np.random.default_rng(1)
  shape = SEGMENTS_MBT.shape
  mask_MBT, advantage_MBT = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
  for row, where in SEQUENCES:
    mask_MBT[row, 0, where] = 1
    advantage_MBT[row, 0, where] = rng.normal()
  tokens_MBT = rng.integers(0, VOCAB, shape)
  trainer_MBT = np.stack([np.asarray(logprobs(table_np(), tokens_BT)) for tokens_BT in tokens_MBT])
  noise_MBT = spread * rng.normal(size=shape).astype(np.float32)
  rollout = RolloutBatch(
    batch=Batch(tokens_MBT, np.zeros(shape, np.int32), SEGMENTS_MBT, mask_MBT),
    advantage_BT=advantage_MBT,
    weight_BT=mask_MBT * rng.uniform(0.05, 0.2, shape).astype(np.float32),
    old_logprob_BT=mask_MBT * (trainer_MBT + noise_MBT),
    ref_logprob_BT=np.zeros(shape, np.float32),
    experts_LBTA=np.zeros((2, 0, 1, shape[-1], 1), np.int32),
  )
  return rollout, trainer_MBT


def weights_by_hand(rollout, trainer_MBT, level):
  """min(pi_old / mu, C) of each sampled token, or of its sequence; 1 elsewhere. And the cut."""
  weight_MBT, cut = np.ones(trainer_MBT.shape), 0
  for row, where in SEQUENCES:
    gaps = trainer_MBT[row, 0, where].astype(float) - rollout.old_logprob_BT[row, 0, where]
    ratios = np.exp(gaps) if level == "token" else np.full(len(gaps), np.exp(gaps.sum()))
    weight_MBT[row, 0, where] = np.minimum(ratios, CAP)
    cut += np.sum(ratios > CAP)
  return weight_MBT, cut


def value_and_gradient(rollout, knobs):
  """Of the loss over both micro-batches, at the table that was the trainer's, moved a little."""
  moved_VV = table_np() + 0.3 * np.random.default_rng(2).normal(size=(VOCAB, VOCAB))

  def loss(table_VV):
    return sum(
      objective(logprobs(table_VV, one.batch.tokens_BT), one, knobs)[0]
      for one in (jax.tree.map(lambda x, m=m: jnp.asarray(x)[m], rollout) for m in range(2))
    )

  return jax.value_and_grad(loss)(jnp.asarray(moved_VV))


def naive_objective(table_VV, rollout, trainer_MBT, weight_MBT, low, high):
  """- sum over tokens of w min(rho A, clip(rho) A), token by token, for rho = pi / pi_old."""
  loss = 0.0
  for row, where in SEQUENCES:
    for t in where:
      tokens = rollout.batch.tokens_BT[row, 0]
      logprob = table_VV[tokens[t - 1], tokens[t]] - jax.nn.logsumexp(table_VV[tokens[t - 1]])
      ratio = jnp.exp(logprob - trainer_MBT[row, 0, t])
      advantage = rollout.advantage_BT[row, 0, t]
      gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - low, 1 + high) * advantage)
      loss -= rollout.weight_BT[row, 0, t] * weight_MBT[row, 0, t] * gain
  return loss


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("clips", [(0.2, 0.28), (10.0, 10.0)])
def test_objective_and_gradient_are_those_written_out(level, clips):
  rollout, trainer_MBT = make(spread=0.4)
  corrected, gap = correct(rollout, trainer_MBT, LEVELS[level], CAP)
  weight_MBT, cut = weights_by_hand(rollout, trainer_MBT, level)
  assert 0 < cut < gap.tokens and gap.capped == cut
  low, high = clips
  loss, gradient_VV = value_and_gradient(corrected, PolicyKnobs(clip_low=low, clip_high=high))
  moved_VV = jnp.asarray(table_np() + 0.3 * np.random.default_rng(2).normal(size=(VOCAB, VOCAB)))
  want, want_VV = jax.value_and_grad(naive_objective)(
    moved_VV, rollout, trainer_MBT, weight_MBT, low, high
  )
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  np.testing.assert_allclose(gradient_VV, want_VV, atol=1e-6)
  uncorrected, _ = value_and_gradient(rollout, PolicyKnobs(clip_low=low, clip_high=high))
  assert abs(uncorrected - want) > 1e-3


@pytest.mark.parametrize("level", list(LEVELS.values()))
def test_equal_log_probabilities_change_nothing_bit_for_bit(level):
  rollout, trainer_MBT = make(spread=0.0)
  corrected, gap = correct(rollout, trainer_MBT, level, 1.0)
  jax.tree.map(np.testing.assert_array_equal, corrected, rollout)
  assert gap.absolute == gap.largest == gap.kl == gap.capped == 0
  knobs = PolicyKnobs(ratio_level=RatioLevel.SEQUENCE_MEAN)
  jax.tree.map(
    np.testing.assert_array_equal,
    value_and_gradient(corrected, knobs),
    value_and_gradient(rollout, knobs),
  )


def test_what_was_not_sampled_does_not_count():
  """A scorer over devices has log-probabilities of prompts, too."""
  rollout, trainer_MBT = make(spread=0.4)
  mask_MBT = rollout.batch.loss_mask_BT > 0
  other_MBT = np.where(mask_MBT, trainer_MBT, np.float32(-50))
  for level in LEVELS.values():
    jax.tree.map(
      np.testing.assert_array_equal,
      correct(rollout, trainer_MBT, level, CAP),
      correct(rollout, other_MBT, level, CAP),
    )


@pytest.mark.parametrize("spread", [0.01, 0.4, 30.0])
def test_the_gap_by_hand(spread):
  rollout, trainer_MBT = make(spread)
  where = rollout.batch.loss_mask_BT > 0
  difference_N = (trainer_MBT.astype(float) - rollout.old_logprob_BT)[where]
  limited_N = np.clip(difference_N, -20, 20)
  _, gap = correct(rollout, trainer_MBT, RatioLevel.TOKEN, CAP)
  assert gap.tokens == len(difference_N) == sum(len(where) for _, where in SEQUENCES)
  np.testing.assert_allclose(gap.absolute, np.abs(difference_N).sum(), rtol=1e-5)
  np.testing.assert_allclose(gap.largest, np.abs(difference_N).max(), rtol=1e-5)
  k3 = np.sum(np.exp(limited_N) - 1 - limited_N)
  np.testing.assert_allclose(gap.kl, k3, rtol=1e-3)


def test_gaps_add_up():
  gaps = [correct(*make(spread), RatioLevel.TOKEN, CAP)[1] for spread in (0.1, 0.4)]
  for first, second in itertools.permutations(gaps):
    total = first + second
    assert total.largest == max(g.largest for g in gaps)
    for name in ("tokens", "absolute", "kl", "capped"):
      assert getattr(total, name) == getattr(first, name) + getattr(second, name)


def test_a_positive_weight_leaves_the_clip_where_it_was():
  """Tokens that the clip cuts are told by the sign of the advantage, which stays."""
  rollout, trainer_MBT = make(spread=30.0)
  corrected, _ = correct(rollout, trainer_MBT, RatioLevel.TOKEN, CAP)
  np.testing.assert_array_equal(np.sign(corrected.advantage_BT), np.sign(rollout.advantage_BT))


def test_over_devices_it_is_that_of_one():
  rollout, trainer_MBT = make(spread=0.4)
  twice = jax.tree.map(lambda x: np.repeat(x, 2, axis=1), rollout)
  twice = dataclasses.replace(twice, experts_LBTA=np.repeat(rollout.experts_LBTA, 2, axis=2))
  logprob_MBT = np.repeat(trainer_MBT, 2, axis=1)
  mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
  for level in LEVELS.values():
    want, want_gap = correct(twice, logprob_MBT, level, CAP)
    got, gap = correct(shard_batch(mesh, twice), logprob_MBT, level, CAP)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gap, want_gap)
