"""Choosing the next token: temperature, top-k, nucleus, counter-based keys. No state, no sort.

A token is drawn by inverting the cumulative distribution with one uniform number per row: a
Gumbel draw needs one per row and vocabulary entry, which on a CPU cost more than the rest of a
small model's decoding step. The nucleus is found by bisection on the probabilities' bits, whose
order is that of the numbers, for the same reason.

Temperature, top-p and top-k are arrays, one value per row: changing them compiles nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.seeds import random_key

_BLOCK = 256  # tokens whose probabilities are added up first
_ONE_BITS = 0x3F800000  # float32 1.0, read as an integer
_COLD = 1e-3  # temperatures below it are taken from the largest logit, lest the quotient overflow


def sample_keys(
  seed: int,
  step: int | np.integer,
  prompts_B: jax.typing.ArrayLike,
  samples_B: jax.typing.ArrayLike,
) -> jax.Array:
  """One key per sample, folded from (seed, step, prompt, sample): keys_B, a typed key array.

  Nothing else enters, so a sample is the same in whatever batch, order or process it is drawn.
  ConfigError unless `seed` is a whole number of 64 bits.
  """
  return _sample_keys(random_key(seed), step, prompts_B, samples_B)


@jax.jit
def _sample_keys(
  key: jax.Array, step: jax.Array, prompts_B: jax.Array, samples_B: jax.Array
) -> jax.Array:
  key = jax.random.fold_in(key, step)
  return jax.vmap(lambda p, s: jax.random.fold_in(jax.random.fold_in(key, p), s))(
    jnp.asarray(prompts_B), jnp.asarray(samples_B)
  )


def turn_keys(keys_B: jax.Array, turn: int) -> jax.Array:
  """The keys of a sample's later turns, 1 and on, in which tokens are counted anew.

  They are folded from numbers that no token of the first turn has, see `token_keys`.
  """
  return jax.vmap(jax.random.fold_in, (0, None))(keys_B, np.uint32(2**32 - turn))


def token_keys(keys_B: jax.Array, count_B: jax.Array) -> jax.Array:
  """The keys of each sample's token number `count_B`, counted from the end of the prompt."""
  return jax.vmap(jax.random.fold_in)(keys_B, count_B)


def nucleus(probs_BV: jax.Array, top_p_B: jax.Array) -> jax.Array:
  """Probabilities outside each row's nucleus set to zero (1904.09751, section 3.1).

  The nucleus is the smallest set of most probable tokens whose probability reaches `top_p_B`; of
  equally probable tokens at its edge the first are kept. At least one token always is. Rows are
  not normalised again.
  """
  return _most_probable(probs_BV, probs_BV, top_p_B)


def top_k(probs_BV: jax.Array, top_k_B: jax.Array) -> jax.Array:
  """All but each row's `top_k_B` most probable tokens set to zero, the rest normalised again.

  Of equally probable tokens at the edge the first are kept. 0 keeps all.
  """
  goal_B = jnp.where(top_k_B > 0, top_k_B, probs_BV.shape[-1]).astype(jnp.float32)
  kept_BV = _most_probable(probs_BV, jnp.ones_like(probs_BV), goal_B)
  return kept_BV / jnp.sum(kept_BV, axis=-1, keepdims=True)


def _most_probable(probs_BV: jax.Array, weights_BV: jax.Array, goal_B: jax.Array) -> jax.Array:
  """Zeros but for the fewest of the most probable tokens whose weights add up to the goal."""
  # Largest threshold at which the tokens at or above it still reach the goal.
  bits_BV = jax.lax.bitcast_convert_type(probs_BV, jnp.int32)

  def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low_B, high_B = bounds
    middle_B = low_B + (high_B - low_B) // 2
    mass_B = jnp.sum(jnp.where(bits_BV >= middle_B[:, None], weights_BV, 0.0), axis=-1)
    reaches_B = mass_B >= goal_B
    return jnp.where(reaches_B, middle_B, low_B), jnp.where(reaches_B, high_B, middle_B)

  low_B = jnp.zeros(probs_BV.shape[0], jnp.int32)
  bits_B, _ = jax.lax.fori_loop(0, 31, halve, (low_B, jnp.full_like(low_B, _ONE_BITS + 1)))
  edge_BV = bits_BV == bits_B[:, None]
  above_BV = bits_BV > bits_B[:, None]
  above_B = jnp.sum(jnp.where(above_BV, weights_BV, 0.0), axis=-1)
  edge_B = jnp.max(jnp.where(edge_BV, weights_BV, 0.0), axis=-1)  # equal for all at the edge
  before_BV = (jnp.cumsum(edge_BV, axis=-1) - 1) * edge_B[:, None] + above_B[:, None]
  kept_BV = above_BV | (edge_BV & (before_BV < goal_B[:, None]))
  return jnp.where(kept_BV, probs_BV, 0.0)


class Rule(NamedTuple):
  """How each row's tokens are chosen."""

  temperature_B: jax.Array  # float32; 0 is greedy
  top_p_B: jax.Array  # float32; 1 is the whole distribution
  top_k_B: jax.Array  # int32; 0 is the whole distribution


def probabilities(logits_BV: jax.Array, rule: Rule) -> jax.Array:
  """What is sampled from, not normalised: tempered, cut to top-k, then to the nucleus.

  A greedy row has one on its most probable token, the first of several.
  """
  greedy_B = rule.temperature_B <= 0

  def drawn() -> jax.Array:
    heat_B = jnp.maximum(rule.temperature_B, jnp.finfo(jnp.float32).tiny)
    divisor_B1 = jnp.where(greedy_B, 1.0, heat_B)[:, None]
    # Only where it must be, for it rounds otherwise, and samples are to stay what they were.
    largest_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    shift_B1 = jnp.where(divisor_B1 < _COLD, largest_B1, 0.0)
    probs_BV = jax.nn.softmax((logits_BV - shift_B1) / divisor_B1, axis=-1)
    some_cut = (rule.top_k_B > 0).any() | (rule.top_p_B < 1).any()
    return jax.lax.cond(some_cut, lambda p: _cut(p, rule), lambda p: p, probs_BV)

  probs_BV = jax.lax.cond(greedy_B.all(), lambda: jnp.zeros_like(logits_BV), drawn)
  vocab_V = jnp.arange(logits_BV.shape[-1])
  best_BV = _first(_largest(logits_BV))[:, None] == vocab_V
  return jnp.where(greedy_B[:, None], best_BV.astype(jnp.float32), probs_BV)


def _cut(probs_BV: jax.Array, rule: Rule) -> jax.Array:
  """The probabilities cut to top-k, then to the nucleus."""
  ks_B, ps_B = rule.top_k_B, rule.top_p_B
  probs_BV = jax.lax.cond((ks_B > 0).any(), lambda p: top_k(p, ks_B), lambda p: p, probs_BV)
  return jax.lax.cond((ps_B < 1).any(), lambda p: nucleus(p, ps_B), lambda p: p, probs_BV)


def sample_token(
  logits_BV: jax.Array, keys_B: jax.Array, rule: Rule
) -> tuple[jax.Array, jax.Array]:
  """Draws one token per row: tokens_B (int32) and logprobs_B (float32).

  `keys_B` are the keys of this token (`token_keys`). The log-probability is the model's own, of the
  logits as they came, before temperature, top-k and nucleus: it is what the training step
  recomputes, and what a policy gradient's ratio compares. It is NaN where a logit is no number or
  infinite: whoever reads it (`request.Request.take`) refuses the token.
  """
  logits_BV = logits_BV.astype(jnp.float32)
  tokens_B = jax.lax.cond(
    (rule.temperature_B > 0).any(),
    lambda: invert(probabilities(logits_BV, rule), keys_B),
    lambda: _first(_largest(logits_BV)),
  )
  chosen_B = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=-1)[:, 0]
  # The sum over all is NaN or infinite with any logit but -inf, which the least of them shows.
  finite_B = jnp.isfinite(jnp.min(logits_BV, axis=-1))
  logprobs_B = chosen_B - jax.nn.logsumexp(logits_BV, axis=-1)
  return tokens_B, jnp.where(finite_B, logprobs_B, jnp.nan)


def invert(probs_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
  """Draws from unnormalised probabilities by inverting their running sum.

  First that of blocks of the vocabulary, then that of the tokens in the one block found.
  """
  B, V = probs_BV.shape
  blocks = -(-V // _BLOCK)
  padded_BV = jnp.pad(probs_BV, ((0, 0), (0, blocks * _BLOCK - V)))
  probs_BYX = padded_BV.reshape(B, blocks, _BLOCK)  # Y blocks of X tokens
  mass_BY = probs_BYX.sum(axis=-1)
  sum_BY = jnp.cumsum(mass_BY, axis=-1)
  uniform_B = jax.vmap(jax.random.uniform)(keys_B)
  goal_B1 = (uniform_B * sum_BY[:, -1])[:, None]
  # What has no probability is never drawn, however the running sum was rounded.
  block_B = _first_or_largest((sum_BY > goal_B1) & (mass_BY > 0), mass_BY)
  probs_BX = jnp.take_along_axis(probs_BYX, block_B[:, None, None], axis=1)[:, 0]
  before_BY = jnp.pad(sum_BY, ((0, 0), (1, 0)))
  before_B1 = jnp.take_along_axis(before_BY, block_B[:, None], axis=1)
  passed_BX = (before_B1 + jnp.cumsum(probs_BX, axis=-1) > goal_B1) & (probs_BX > 0)
  # A block's own sum may be rounded below what the running sum has it: then its last is meant.
  last_BX = (probs_BX > 0) & (jnp.cumsum(probs_BX[:, ::-1] > 0, axis=-1)[:, ::-1] == 1)
  return block_B * _BLOCK + _first_or_largest(passed_BX, last_BX.astype(jnp.float32))


def _first_or_largest(passed_BV: jax.Array, x_BV: jax.Array) -> jax.Array:
  """The first true column of each row, or where there is none that of the largest value."""
  return jnp.where(passed_BV.any(axis=-1), _first(passed_BV), _first(_largest(x_BV)))


def _largest(x_BV: jax.Array) -> jax.Array:
  """Where a row has its largest value."""
  return x_BV == jnp.max(x_BV, axis=-1, keepdims=True)


def _first(chosen_BV: jax.Array) -> jax.Array:
  """The first true column of each row, int32. A CPU computes a maximum far faster than argmax."""
  vocab = chosen_BV.shape[-1]
  left_V = vocab - jnp.arange(vocab, dtype=jnp.int32)
  return jnp.minimum(vocab - jnp.max(jnp.where(chosen_BV, left_V, 0), axis=-1), vocab - 1)
