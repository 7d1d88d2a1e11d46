"""Which experts a token visits, with which weights, and how uneven that was.

V3 (2412.19437, section 2.1.2): sigmoid affinities; a bias added for selection only; the score of a
group is the sum of its two best biased affinities; experts outside the best groups are excluded
with -inf (not zero: biased affinities may be negative); weights are the unbiased affinities of the
chosen, normalised and scaled. V2 (2405.04434): softmax affinities, a group scores its maximum.
All in float32.
"""

import jax
import jax.numpy as jnp

from deepseek_jax.config import MoEConfig


def affinities(logits_NE: jax.Array, scoring: str) -> jax.Array:
  """Affinity of each token to each expert, float32: sigmoid (V3) or softmax (V2)."""
  logits = logits_NE.astype(jnp.float32)
  return jax.nn.sigmoid(logits) if scoring == "sigmoid" else jax.nn.softmax(logits, axis=-1)


def select(scores_NE: jax.Array, bias_E: jax.Array, config: MoEConfig) -> jax.Array:
  """The top-k experts of each token, int32 [N, A], ascending; ties go to the lower index."""
  choice_NE = jax.lax.stop_gradient(scores_NE)
  if config.selection_bias:
    choice_NE = choice_NE + jax.lax.stop_gradient(bias_E)
  if config.top_groups < config.groups:
    choice_NE = _exclude_groups(choice_NE, config)
  _, experts_NA = jax.lax.top_k(choice_NE, config.top_k)
  return jnp.sort(experts_NA, axis=-1)


def _exclude_groups(choice_NE: jax.Array, config: MoEConfig) -> jax.Array:
  """Sets the experts outside each token's best groups to -inf."""
  N = choice_NE.shape[0]
  grouped = choice_NE.reshape(N, config.groups, -1)
  if config.group_score == "top2":
    group_NZ = jax.lax.top_k(grouped, 2)[0].sum(axis=-1)
  else:
    group_NZ = grouped.max(axis=-1)
  _, best = jax.lax.top_k(group_NZ, config.top_groups)
  kept_NZ = jax.nn.one_hot(best, config.groups, dtype=jnp.bool_).any(axis=1)
  return jnp.where(kept_NZ[:, :, None], grouped, -jnp.inf).reshape(choice_NE.shape)


def combine_weights(scores_NE: jax.Array, experts_NA: jax.Array, config: MoEConfig) -> jax.Array:
  """Weights [N, A] of the chosen experts, from unbiased affinities."""
  # The chosen affinities by one-hot sums: the gradient of a gather is a scatter, slow on CPU.
  onehot = experts_NA[:, :, None] == jnp.arange(scores_NE.shape[1])
  weights_NA = jnp.where(onehot, scores_NE[:, None, :], 0.0).sum(axis=-1)
  if config.normalize:
    weights_NA = weights_NA / (weights_NA.sum(axis=-1, keepdims=True) + 1e-20)
  return weights_NA * config.scale


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
