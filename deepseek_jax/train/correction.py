"""Truncated importance sampling: for tokens that another program drew than the one that trains.

Sampler and trainer are one model with the same weights, yet not one program: they round, batch and
route differently, the more so in low precision. Tokens are drawn by the sampler's mu, while the
policy gradient is of the trainer's pi_old, so that each term is weighted by min(pi_old / mu, cap):
a truncated importance weight, per token or per sequence (Yao et al., "Your efficient RL framework
secretly brings you off-policy RL training", 2025; truncation: Ionides, 2008). PPO's own ratio is
then pi / pi_old, of the trainer alone.

The weight multiplies the advantage. It is positive, so that the clipped objective commutes with it,
and the compiled update is the same with and without. At a temperature other than 1 both
log-probabilities are those of the untempered policy: what is corrected is numerics.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from deepseek_jax.train.policy import LOG_RATIO_LIMIT, RatioLevel, at_level
from deepseek_jax.types import Array, RolloutBatch

LEVELS = {"token": RatioLevel.TOKEN, "sequence": RatioLevel.SEQUENCE_SUM}
"""What the importance weight of a token is taken over."""


@flax.struct.dataclass
class Gap:
  """How far the trainer's log-probabilities lie from those recorded, over sampled tokens."""

  tokens: jax.Array
  absolute: jax.Array  # sum of |log pi_old - log mu|
  largest: jax.Array  # of them
  kl: jax.Array  # sum of the k3 estimate of KL(mu | pi_old)
  capped: jax.Array  # tokens whose weight the cap cuts

  def __add__(self, other: "Gap") -> "Gap":
    total = jax.tree.map(jnp.add, self, other)
    return total.replace(largest=jnp.maximum(self.largest, other.largest))


@jax.jit
def correct(
  rollout: RolloutBatch, logprob_MBT: Array, level: Any, cap: Any
) -> tuple[RolloutBatch, Gap]:
  """`rollout` as if the trainer had drawn it, its advantages weighted, and the gap that was there.

  `rollout.old_logprob_BT` are the sampler's log-probabilities and `logprob_MBT` the trainer's, of
  the same weights; `level` is one of `LEVELS`. Arrays have a leading axis of micro-batches.
  """
  mask_MBT = rollout.batch.loss_mask_BT > 0
  difference_MBT = jnp.where(mask_MBT, logprob_MBT - rollout.old_logprob_BT, 0.0)
  log_weight_MBT = jax.vmap(at_level, (0, 0, 0, None))(
    difference_MBT, mask_MBT, rollout.batch.segments_BT, level
  )
  weight_MBT = jnp.exp(_limited(log_weight_MBT))
  weighted_MBT = jnp.minimum(weight_MBT, cap) * rollout.advantage_BT
  limited_MBT, absolute_MBT = _limited(difference_MBT), jnp.abs(difference_MBT)
  gap = Gap(
    tokens=jnp.sum(mask_MBT, dtype=jnp.float32),
    absolute=jnp.sum(absolute_MBT),
    largest=jnp.max(absolute_MBT),
    kl=jnp.sum(jnp.expm1(limited_MBT) - limited_MBT),
    capped=jnp.sum(mask_MBT & (weight_MBT > cap), dtype=jnp.float32),
  )
  return (
    dataclasses.replace(
      rollout,
      advantage_BT=jnp.where(mask_MBT, weighted_MBT, 0.0),
      old_logprob_BT=jnp.where(mask_MBT, logprob_MBT, 0.0),
    ),
    gap,
  )


def _limited(log_ratio: jax.Array) -> jax.Array:
  return jnp.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
