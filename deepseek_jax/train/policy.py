"""The policy-gradient objective of GRPO and its relatives, as a function of log-probabilities.

Sources: GRPO, per token (2402.03300, equation 3) and per sequence (2501.12948, equation 1);
separate clips and the token-level mean (DAPO, 2503.14476); no standard deviation and a constant
normaliser (Dr. GRPO, 2503.20783); the geometric mean of a sequence's ratios (GSPO, 2507.18071).

What sets them apart is data, so that one compiled step serves them all: the level of the ratio and
the coefficients are traced scalars, the normalisation is `RolloutBatch.weight_BT`, and the
advantages arrive computed. KL is per token and added to the loss at every ratio level, as in
2402.03300; the R1 paper prints it per sequence.
"""

import enum
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from deepseek_jax.types import SHARED, RolloutBatch

LOG_RATIO_LIMIT = 20.0  # exp(20) is far outside any clip; beyond it float32 could overflow


class RatioLevel(enum.IntEnum):
  """What the importance ratio pi / pi_old of a token is taken over; a value for `PolicyKnobs`."""

  TOKEN = 0  # the token
  SEQUENCE_SUM = 1  # the whole sequence, pi(o) / pi_old(o): the R1 paper
  SEQUENCE_MEAN = 2  # the sequence's geometric mean: GSPO


@flax.struct.dataclass
class PolicyKnobs:
  """Traced coefficients of the objective. The ratio is clipped to [1 - low, 1 + high]."""

  clip_low: Any = 0.2
  clip_high: Any = 0.2
  ratio_level: Any = RatioLevel.TOKEN
  kl_k1: Any = 0.0  # weight of log(pi / ref)
  kl_k2: Any = 0.0  # weight of log(pi / ref)^2 / 2
  kl_k3: Any = 0.0  # weight of ref / pi - log(ref / pi) - 1: the papers' estimator


@flax.struct.dataclass
class PolicySums:
  """What the objective reports, as sums and maxima over tokens so that micro-batches combine."""

  tokens: jax.Array
  kl: jax.Array  # the k3 estimate, whatever enters the loss
  ratio: jax.Array
  clipped_low: jax.Array  # tokens whose gradient the lower clip cuts
  clipped_high: jax.Array
  ratio_max: jax.Array


def objective(
  logprob_BT: jax.Array, rollout: RolloutBatch, knobs: PolicyKnobs
) -> tuple[jax.Array, PolicySums]:
  """The loss, a weighted sum over the batch's sampled tokens, and its report.

  `logprob_BT` is the policy's of the token at t given those before it, as are all arrays of
  `rollout`; where `loss_mask_BT` is zero it is ignored. Rows may hold several sequences.
  """
  mask_BT = rollout.batch.loss_mask_BT > 0
  log_ratio_BT = jnp.where(mask_BT, logprob_BT - rollout.old_logprob_BT, 0.0)
  log_ratio_BT = at_level(log_ratio_BT, mask_BT, rollout.batch.segments_BT, knobs.ratio_level)
  ratio_BT = jnp.exp(jnp.clip(log_ratio_BT, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
  low, high = 1.0 - knobs.clip_low, 1.0 + knobs.clip_high
  gain_BT = jnp.minimum(
    ratio_BT * rollout.advantage_BT, jnp.clip(ratio_BT, low, high) * rollout.advantage_BT
  )

  log_ref_BT = jnp.where(mask_BT, rollout.ref_logprob_BT - logprob_BT, 0.0)  # log(ref / pi)
  log_ref_BT = jnp.clip(log_ref_BT, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
  k3_BT = jnp.expm1(log_ref_BT) - log_ref_BT
  kl_BT = -knobs.kl_k1 * log_ref_BT + knobs.kl_k2 * 0.5 * log_ref_BT**2 + knobs.kl_k3 * k3_BT

  loss = jnp.sum(jnp.where(mask_BT, rollout.weight_BT * (kl_BT - gain_BT), 0.0))
  sums = PolicySums(
    tokens=jnp.sum(mask_BT, dtype=jnp.float32),
    kl=jnp.sum(k3_BT),
    ratio=jnp.sum(jnp.where(mask_BT, ratio_BT, 0.0)),
    clipped_low=jnp.sum(mask_BT & (ratio_BT < low) & (rollout.advantage_BT < 0), dtype=jnp.float32),
    clipped_high=jnp.sum(
      mask_BT & (ratio_BT > high) & (rollout.advantage_BT > 0), dtype=jnp.float32
    ),
    ratio_max=jnp.max(jnp.where(mask_BT, ratio_BT, 0.0)),
  )
  return loss, sums


def at_level(
  log_ratio_BT: jax.Array, mask_BT: jax.Array, segments_BT: jax.Array, level: jax.Array
) -> jax.Array:
  """Each token's log-ratio at `level`: its own, or its sequence's sum or mean."""

  def row(log_ratio_T: jax.Array, mask_T: jax.Array, segments_T: jax.Array) -> jax.Array:
    segments = segments_T.size + 1  # a row cannot hold more, and padding is 0
    segments_T = jnp.where(segments_T < SHARED, segments_T, segments_T // SHARED)
    total_T = jax.ops.segment_sum(log_ratio_T, segments_T, segments)[segments_T]
    count_T = jax.ops.segment_sum(mask_T.astype(jnp.float32), segments_T, segments)[segments_T]
    divisor_T = jnp.where(level == RatioLevel.SEQUENCE_SUM, 1.0, jnp.maximum(count_T, 1.0))
    return total_T / divisor_T

  sequence_BT = jax.vmap(row)(log_ratio_BT, mask_BT, segments_BT)
  return jnp.where(level == RatioLevel.TOKEN, log_ratio_BT, sequence_BT)
