"""Which experts a token visits, with which weights (by `pallas_kernels.routing`), and how uneven
that was.

V3 (2412.19437, section 2.1.2): sigmoid affinities; a bias added for selection only; the score of a
group is the sum of its two best biased affinities; experts outside the best groups are excluded
with -inf (not zero: biased affinities may be negative); weights are the unbiased affinities of the
chosen, normalised and scaled. V2 (2405.04434): softmax affinities, a group scores its maximum.
All in float32.
"""

import jax
import jax.numpy as jnp

from deepseek_jax.config import MoEConfig
from pallas_kernels.routing import api, ref
from pallas_kernels.routing.ref import Routing as Routed
from pallas_kernels.routing.rule import Rule


def rule(config: MoEConfig) -> Rule:
  """The configuration as the routing kernels take it."""
  return Rule(
    top_k=config.top_k,
    groups=config.groups,
    top_groups=config.top_groups,
    scoring=config.scoring,
    group_score=config.group_score,
    normalize=config.normalize,
    scale=config.scale,
  )


def affinities(logits_NE: jax.Array, config: MoEConfig) -> jax.Array:
  """Affinity of each token to each expert, float32: sigmoid (V3) or softmax (V2)."""
  return ref.affinities(logits_NE, rule(config))


def route(
  logits_NE: jax.Array, bias_E: jax.Array, config: MoEConfig, implementation: str | None = "xla"
) -> Routed:
  """The experts and weights of each token; see `pallas_kernels.routing.api.route`.

  A router without selection bias ignores `bias_E`. On Hopper XLA's form is the kernel: there is no
  other.
  """
  if implementation == "mgpu":
    implementation = "xla"
  bias_E = bias_E.astype(jnp.float32) if config.selection_bias else jnp.zeros(config.experts)
  return api.route(logits_NE, bias_E, rule(config), implementation)


def chosen_mask(experts_NA: jax.Array, experts: int) -> jax.Array:
  """Whether each token visits each expert, bool [N, E]."""
  return (experts_NA[:, :, None] == jnp.arange(experts)).any(axis=1)


def load(chosen_NE: jax.Array, valid_N: jax.Array) -> jax.Array:
  """Number of tokens, padding aside, sent to each expert: float32 [E]."""
  return jnp.where(valid_N[:, None], chosen_NE, False).sum(axis=0, dtype=jnp.float32)


def balance_loss(scores_BTE: jax.Array, valid_BT: jax.Array, top_k: int) -> jax.Array:
  """Sequence-wise balance loss before its coefficient, averaged over rows (2412.19437, eq. 17-20).

  f_i = E / (A T) * times expert i is among the top-k of the unbiased affinities (as printed, so
  neither the bias nor the groups enter); P_i = mean over tokens of the affinity divided by the
  token's sum. T counts the row's tokens without padding. The loss is 1 when perfectly even.
  """
  B, T, E = scores_BTE.shape
  valid = valid_BT[..., None].astype(jnp.float32)
  count_B1 = jnp.maximum(valid.sum(axis=1), 1.0)
  share_BTE = scores_BTE / (scores_BTE.sum(axis=-1, keepdims=True) + 1e-20)
  p_BE = (share_BTE * valid).sum(axis=1) / count_B1
  _, best_NA = jax.lax.top_k(jax.lax.stop_gradient(scores_BTE).reshape(B * T, E), top_k)
  best_BTE = chosen_mask(best_NA, E).reshape(B, T, E)
  f_BE = (best_BTE * valid).sum(axis=1) * E / (top_k * count_B1)
  used = valid_BT.any(axis=1)
  return jnp.where(used, (f_BE * p_BE).sum(axis=-1), 0.0).sum() / jnp.maximum(used.sum(), 1)


def bias_update(bias_LE: jax.Array, load_LE: jax.Array, speed: jax.typing.ArrayLike) -> jax.Array:
  """The auxiliary-loss-free bias step: overloaded experts sink, underloaded ones rise by `speed`.

  `load_LE` must be summed over the whole global batch (2408.15664, algorithm 1).
  """
  mean = load_LE.mean(axis=-1, keepdims=True)
  return bias_LE + speed * jnp.sign(mean - load_LE)


def max_violation(load_LE: jax.Array) -> jax.Array:
  """MaxVio (2408.15664): how far the busiest expert exceeds the mean load, per row."""
  mean_L = load_LE.mean(axis=-1)
  return (load_LE.max(axis=-1) - mean_L) / jnp.maximum(mean_L, 1e-9)  # 0 without any load
