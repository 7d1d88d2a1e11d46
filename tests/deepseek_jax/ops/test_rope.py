"""Rotary embedding: published frequencies, two layouts, and what a rotation keeps."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_jax.config import RopeConfig
from deepseek_jax.ops.rope import angles, frequencies, rotate, softmax_scale
from deepseek_jax.presets import preset

V3_ROPE = preset("v3_671b").rope


def test_plain_frequencies():
  expected = [10_000 ** (-2 * k / 6) for k in range(3)]
  np.testing.assert_allclose(frequencies(RopeConfig(), 6), expected)


def test_yarn_ramps_between_pairs_10_and_23():
  """2309.00071 for 64 dimensions, factor 40, 4096 positions: figures of DeepSeek-V3."""
  ratio = frequencies(V3_ROPE, 64) / frequencies(RopeConfig(), 64)
  np.testing.assert_allclose(ratio[:11], 1)
  np.testing.assert_allclose(ratio[23:], 1 / 40)
  ramp = (np.arange(10, 24) - 10) / 13
  np.testing.assert_allclose(ratio[10:24], 1 - ramp * (1 - 1 / 40))


def test_yarn_bounds_are_where_a_pair_turns_32_times_and_once():
  turns = frequencies(RopeConfig(), 64) * 4096 / (2 * math.pi)
  assert turns[10] > 32 > turns[11]
  assert turns[22] > 1 > turns[23]


def test_yarn_bounds_stay_inside_the_pairs():
  """A context so short that no pair turns 32 times, and so long that all turn more than once."""
  for context in (4, 10**9):
    config = RopeConfig(scaling="yarn", factor=4.0, original_context=context)
    ratio = frequencies(config, 8) / frequencies(RopeConfig(), 8)
    assert np.all((ratio >= 0.25) & (ratio <= 1))
    assert np.all(np.diff(ratio) <= 0)
  np.testing.assert_allclose(ratio, 1)


def test_yarn_of_factor_one_is_plain():
  config = RopeConfig(scaling="yarn", factor=1.0, mscale=1.0, mscale_all_dim=1.0)
  np.testing.assert_allclose(frequencies(config, 64), frequencies(RopeConfig(), 64))
  assert softmax_scale(config, 192) == 192**-0.5


@pytest.mark.parametrize(("name", "scale"), [("v3_671b", 0.135234), ("v2_lite_16b", 0.114721)])
def test_softmax_scale_of_published_models(name, scale):
  assert softmax_scale(preset(name).rope, 192) == pytest.approx(scale, abs=5e-7)


def test_softmax_scale_without_yarn():
  assert softmax_scale(RopeConfig(), 64) == 0.125
  assert softmax_scale(preset("r1_distill_llama_8b").rope, 64) == 0.125


@pytest.mark.parametrize(
  ("mscale", "all_dim", "length"),
  [
    (1.0, 1.0, 1.0),
    (0.707, 0.707, 1.0),
    (0.707, 0.0, 0.0707 * math.log(40) + 1),  # the V2 paper's form
    (1.0, 0.707, 1.368888 / 1.260804),
  ],
)
def test_mscales_stretch_the_rotation_by_their_quotient(mscale, all_dim, length):
  config = RopeConfig(scaling="yarn", factor=40.0, mscale=mscale, mscale_all_dim=all_dim)
  cos, sin = angles(config, 64, jnp.arange(50)[None])
  np.testing.assert_allclose(np.hypot(cos, sin), length, rtol=1e-6)


@pytest.mark.parametrize("theta", [math.nextafter(1, 2), 1e18])
@pytest.mark.parametrize("scaling, factor", [("none", 1), ("linear", 1e-20), ("yarn", 1e18)])
def test_angles_are_finite_wherever_a_config_is_allowed(theta, scaling, factor):
  config = RopeConfig(theta=theta, scaling=scaling, factor=factor)
  for part in angles(config, 8, jnp.asarray([[0, 1, 2**31 - 1]])):
    assert np.isfinite(part).all()


def llama3_by_wavelength(theta, dim, factor, low, high, context):
  """Meta's description: three bands of wavelength, the middle one interpolated."""
  out = []
  for k in range(dim // 2):
    freq = theta ** (-2 * k / dim)
    wavelength = 2 * math.pi / freq
    if wavelength < context / high:
      out.append(freq)
    elif wavelength > context / low:
      out.append(freq / factor)
    else:
      smooth = (context / wavelength - low) / (high - low)
      out.append((1 - smooth) * freq / factor + smooth * freq)
  return out


@given(
  theta=st.sampled_from([1e4, 5e5, 1e6]),
  dim=st.sampled_from([8, 64, 128]),
  factor=st.floats(1, 64),
  low=st.floats(0.5, 2),
  width=st.floats(0.5, 6),
  context=st.integers(16, 10**5),
)
def test_llama3_scaling(theta, dim, factor, low, width, context):
  config = RopeConfig(
    theta=theta, scaling="llama3", factor=factor, original_context=context,
    low_freq_factor=low, high_freq_factor=low + width,
  )  # fmt: skip
  expected = llama3_by_wavelength(theta, dim, factor, low, low + width, context)
  np.testing.assert_allclose(frequencies(config, dim), expected, rtol=1e-9)


def test_llama3_keeps_stretches_and_blends():
  freq = frequencies(preset("r1_distill_llama_8b").rope, 128)
  ratio = freq / frequencies(RopeConfig(theta=5e5), 128)
  assert ratio[0] == 1
  assert ratio[-1] == pytest.approx(1 / 8)
  assert np.sum((ratio > 1 / 8 + 1e-9) & (ratio < 1 - 1e-9)) > 3


# Interleaved dimension 2k is half-split dimension k, and 2k + 1 is k + R / 2.
def to_halves(x):
  return np.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)


@pytest.mark.parametrize("config", [RopeConfig(), V3_ROPE])
def test_the_two_layouts_differ_by_a_permutation(config):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 7, 3, 16)).astype(np.float32)
  rotation = angles(config, 16, jnp.asarray(rng.integers(0, 5000, (2, 7))))
  pairs = rotate(jnp.asarray(x), *rotation, interleaved=True)
  halves = rotate(jnp.asarray(to_halves(x)), *rotation, interleaved=False)
  np.testing.assert_allclose(to_halves(np.asarray(pairs)), halves, atol=1e-6)


def test_interleaved_is_multiplication_of_adjacent_pairs_as_complex_numbers():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(1, 5, 2, 8))
  positions = np.array([[0, 1, 2, 7, 100]])
  turn = np.exp(1j * positions[..., None] * frequencies(RopeConfig(), 8))[:, :, None]
  z = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
  expected = np.stack([z.real, z.imag], axis=-1).reshape(x.shape)
  got = rotate(jnp.asarray(x, jnp.float32), *angles(RopeConfig(), 8, positions), interleaved=True)
  np.testing.assert_allclose(got, expected, atol=1e-5)


SPAN = 64


@settings(max_examples=30, deadline=None)
@given(
  seed=st.integers(0, 999),
  positions=st.tuples(st.integers(0, SPAN), st.integers(0, SPAN)),
  shift=st.integers(0, 1000),
  interleaved=st.booleans(),
  config=st.sampled_from([RopeConfig(), V3_ROPE, preset("r1_distill_llama_8b").rope]),
)
def test_a_score_depends_on_the_distance_alone(seed, positions, shift, interleaved, config):
  q, k = np.random.default_rng(seed).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

  def score(m, n):
    turned = [
      rotate(jnp.asarray(x), *angles(config, 8, np.array([[at]])), interleaved)
      for x, at in ((q, m), (k, n))
    ]
    return float(jnp.vdot(*turned))

  m, n = positions
  assert score(m, n) == pytest.approx(score(m + shift, n + shift), abs=2e-3)
  assert score(m, m) == pytest.approx(float(np.vdot(q, k)), abs=1e-4)


def test_bfloat16_is_turned_in_float32():
  """At position 5001 an angle kept in bfloat16 would be off by radians."""
  x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 1, 2, 8)), jnp.bfloat16)
  rotation = angles(RopeConfig(), 8, np.array([[5001]]))
  got = rotate(x, *rotation, interleaved=True)
  assert got.dtype == jnp.bfloat16
  exact = rotate(x.astype(jnp.float32), *rotation, interleaved=True)
  assert jnp.array_equal(got, exact.astype(jnp.bfloat16))
