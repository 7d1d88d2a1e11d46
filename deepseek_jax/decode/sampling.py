"""Choosing the next token: temperature, nucleus, counter-based keys. No state, no sort.

A token is drawn by inverting the cumulative distribution with one uniform number per row: a
Gumbel draw needs one per row and vocabulary entry, which on a CPU cost more than the rest of a
small model's decoding step. The nucleus is found by bisection on the probabilities' bits, whose
order is that of the numbers, for the same reason.

Temperature and top-p are traced scalars: changing them compiles nothing.
"""

import jax
import jax.numpy as jnp

_ONE_BITS = 0x3F800000  # float32 1.0, read as an integer


@jax.jit
def sample_keys(
  seed: int | jax.Array, step: int | jax.Array, prompts_B: jax.Array, samples_B: jax.Array
) -> jax.Array:
  """One key per sample, folded from (seed, step, prompt, sample): keys_B, a typed key array.

  Nothing else enters, so a sample is the same in whatever batch, order or process it is drawn.
  """
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.vmap(lambda p, s: jax.random.fold_in(jax.random.fold_in(key, p), s))(
    jnp.asarray(prompts_B), jnp.asarray(samples_B)
  )


def token_keys(keys_B: jax.Array, position: jax.Array) -> jax.Array:
  """The keys of the samples' token number `position`, counted from the end of the prompt."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys_B, position)


def nucleus(probs_BV: jax.Array, top_p: jax.Array) -> jax.Array:
  """Probabilities outside each row's nucleus set to zero (1904.09751, section 3.1).

  The nucleus is the smallest set of most probable tokens whose probability reaches `top_p`; of
  equally probable tokens at its edge the first are kept. At least one token always is. Rows are
  not normalised again.
  """
  # Largest threshold at which the tokens at or above it still reach top_p.
  bits_BV = jax.lax.bitcast_convert_type(probs_BV, jnp.int32)

  def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    low_B, high_B = bounds
    middle_B = low_B + (high_B - low_B) // 2
    mass_B = jnp.sum(jnp.where(bits_BV >= middle_B[:, None], probs_BV, 0.0), axis=-1)
    reaches_B = mass_B >= top_p
    return jnp.where(reaches_B, middle_B, low_B), jnp.where(reaches_B, high_B, middle_B)

  low_B = jnp.zeros(probs_BV.shape[0], jnp.int32)
  bits_B, _ = jax.lax.fori_loop(0, 31, halve, (low_B, jnp.full_like(low_B, _ONE_BITS + 1)))
  edge_BV = bits_BV == bits_B[:, None]
  above_BV = bits_BV > bits_B[:, None]
  above_B = jnp.sum(jnp.where(above_BV, probs_BV, 0.0), axis=-1)
  edge_B = jax.lax.bitcast_convert_type(bits_B, jnp.float32)
  before_BV = (jnp.cumsum(edge_BV, axis=-1) - 1) * edge_B[:, None] + above_B[:, None]
  kept_BV = above_BV | (edge_BV & (before_BV < top_p))
  return jnp.where(kept_BV, probs_BV, 0.0)


def sample_token(
  logits_BV: jax.Array, keys_B: jax.Array, temperature: jax.Array, top_p: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Draws one token per row: tokens_B (int32) and logprobs_B (float32).

  `keys_B` are the keys of this token (`token_keys`). Temperature 0 takes the most probable token,
  the first of several. The log-probability is the model's own, of the logits as they came, before
  temperature and nucleus: it is what the training step recomputes, and what a policy gradient's
  ratio compares.
  """
  logits_BV = logits_BV.astype(jnp.float32)
  logprobs_BV = jax.nn.log_softmax(logits_BV, axis=-1)

  def greedy() -> jax.Array:
    return _first(logits_BV == jnp.max(logits_BV, axis=-1, keepdims=True))

  def tempered() -> jax.Array:
    return jax.nn.softmax(logits_BV / jnp.where(temperature > 0, temperature, 1.0), axis=-1)

  kind = jnp.where(temperature > 0, jnp.where(top_p < 1, 2, 1), 0)
  tokens_B = jax.lax.switch(
    kind,
    (
      greedy,
      lambda: _invert(tempered(), keys_B),
      lambda: _invert(nucleus(tempered(), top_p), keys_B),
    ),
  )
  return tokens_B, jnp.take_along_axis(logprobs_BV, tokens_B[:, None], axis=-1)[:, 0]


def _invert(probs_BV: jax.Array, keys_B: jax.Array) -> jax.Array:
  """Draws from unnormalised probabilities by inverting their running sum."""
  sum_BV = jnp.cumsum(probs_BV, axis=-1)
  uniform_B = jax.vmap(jax.random.uniform)(keys_B)
  # A token of probability zero is never drawn, however the running sum was rounded.
  passed_BV = (sum_BV > (uniform_B * sum_BV[:, -1])[:, None]) & (probs_BV > 0)
  likeliest_BV = probs_BV == jnp.max(probs_BV, axis=-1, keepdims=True)
  return jnp.where(passed_BV.any(axis=-1), _first(passed_BV), _first(likeliest_BV))


def _first(chosen_BV: jax.Array) -> jax.Array:
  """The first true column of each row, int32. A CPU computes a maximum far faster than argmax."""
  vocab = chosen_BV.shape[-1]
  left_V = vocab - jnp.arange(vocab, dtype=jnp.int32)
  return jnp.minimum(vocab - jnp.max(jnp.where(chosen_BV, left_V, 0), axis=-1), vocab - 1)
