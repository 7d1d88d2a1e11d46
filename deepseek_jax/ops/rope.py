"""Rotary position embedding: plain, linear, YaRN and Llama 3 frequencies, for two kinds of pairs.

DeepSeek's checkpoints store rotary dimensions as adjacent pairs (2k, 2k + 1); Qwen and Llama as
halves (k, k + R/2). YaRN follows 2309.00071 with DeepSeek's two mscales: their quotient multiplies
cos and sin, and `mscale_all_dim` also enters the softmax scale (`softmax_scale`). DeepSeek's
inference demo applies the latter only beyond the original context, transformers always; so do we.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.config import RopeConfig


def frequencies(config: RopeConfig, dim: int, dtype: type = np.float64) -> np.ndarray:
  """Angular frequencies, radians per position, of the dim / 2 rotary pairs.

  In float32 every step is rounded as in DeepSeek's code and transformers, which is what published
  weights were trained with: at position 163,839 a last bit of a frequency is 0.01 radians.
  """
  exponent: np.ndarray = (np.arange(0, dim, 2) / dim).astype(dtype)
  period: np.ndarray = (config.theta ** exponent.astype(np.float64)).astype(dtype)
  if config.scaling == "yarn":
    return _yarn_frequencies(config, dim, period)
  plain = 1 / period
  if config.scaling == "linear":  # 2306.15595: every position divided by the factor
    return plain / config.factor
  if config.scaling == "llama3":
    return _llama3_frequencies(config, plain)
  return plain


def _yarn_frequencies(config: RopeConfig, dim: int, period: np.ndarray) -> np.ndarray:
  """Fast pairs keep their frequency, slow ones are divided by the factor, a ramp between."""

  def pair_of(rotations: float) -> float:
    """The pair that turns `rotations` times over the original context."""
    turns = config.original_context / (rotations * 2 * math.pi)
    return dim * math.log(turns) / (2 * math.log(config.theta))

  low = max(math.floor(pair_of(config.beta_fast)), 0)
  high = min(math.ceil(pair_of(config.beta_slow)), dim - 1)
  span = high - low if high > low else 0.001
  kept = 1 - np.clip((np.arange(dim // 2).astype(period.dtype) - low) / span, 0.0, 1.0)
  return 1 / (config.factor * period) * (1 - kept) + 1 / period * kept


def _llama3_frequencies(config: RopeConfig, plain: np.ndarray) -> np.ndarray:
  """Wavelengths beyond the original context are stretched, with a smooth transition."""
  turns = config.original_context / (2 * math.pi / plain)
  low, high = config.low_freq_factor, config.high_freq_factor
  smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
  stretched = (1 - smooth) * plain / config.factor + smooth * plain
  return np.where(smooth == 0, plain / config.factor, np.where(smooth == 1, plain, stretched))


def yarn_mscale(factor: float, mscale: float) -> float:
  """YaRN's attention temperature, 0.1 * mscale * ln(factor) + 1."""
  return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def softmax_scale(config: RopeConfig, dim: int) -> float:
  """The factor on attention scores for query-key width `dim`."""
  scale = dim**-0.5
  if config.scaling == "yarn" and config.mscale_all_dim:
    scale *= yarn_mscale(config.factor, config.mscale_all_dim) ** 2
  return scale


def angles(config: RopeConfig, dim: int, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Cosine and sine, float32 [B, T, dim / 2], to be passed to `rotate`."""
  freq = jnp.asarray(frequencies(config, dim, np.float32))
  angle = positions_BT[..., None].astype(jnp.float32) * freq
  if config.scaling == "yarn":
    scale = yarn_mscale(config.factor, config.mscale)
    scale /= yarn_mscale(config.factor, config.mscale_all_dim)
    return jnp.cos(angle) * scale, jnp.sin(angle) * scale
  return jnp.cos(angle), jnp.sin(angle)


def rotate(
  x_BTHR: jax.Array, cos_BTR: jax.Array, sin_BTR: jax.Array, interleaved: bool
) -> jax.Array:
  """Turns each rotary pair of x by its angle, in float32; cos and sin hold R / 2 values."""
  x = x_BTHR.astype(jnp.float32)
  cos, sin = cos_BTR[:, :, None, :], sin_BTR[:, :, None, :]
  if interleaved:
    # A reversal swaps the pairs; its derivative is one too, where that of strided slices pads.
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    signed_sin = jnp.stack([-sin, sin], axis=-1)
    turned = (pairs * cos[..., None] + pairs[..., ::-1] * signed_sin).reshape(x.shape)
  else:
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return turned.astype(x_BTHR.dtype)
