"""RMSNorm and SwiGLU equal their formulas."""

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.model.layers import FeedForward, rms_norm

RNG = np.random.default_rng(0)


def test_rms_norm_equals_its_formula():
  x, scale = RNG.normal(size=(3, 8)) * 5, RNG.normal(size=8)
  expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
  got = rms_norm(jnp.asarray(x, jnp.float32), jnp.asarray(scale, jnp.float32), 1e-6)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_rms_norm_of_bfloat16_is_computed_in_float32():
  x = jnp.asarray(1 + RNG.normal(size=(1, 4096)) * 0.1, jnp.bfloat16)
  got = rms_norm(x, jnp.ones(4096), 1e-6)
  assert got.dtype == jnp.bfloat16
  exact = rms_norm(x.astype(jnp.float32), jnp.ones(4096), 1e-6)
  assert jnp.array_equal(got, exact.astype(jnp.bfloat16))


def test_epsilon_stands_under_the_root():
  np.testing.assert_allclose(rms_norm(jnp.zeros((1, 4)), jnp.ones(4), 1e-6), 0)
  tiny = jnp.full((1, 4), 1e-3)  # its mean square is epsilon
  np.testing.assert_allclose(rms_norm(tiny, jnp.ones(4), 1e-6), 2**-0.5, rtol=1e-5)


def test_feed_forward_is_swiglu():
  x, gate, up = (RNG.normal(size=s) for s in ((2, 3, 4), (4, 5), (4, 5)))
  down = RNG.normal(size=(5, 4))
  g = x @ gate
  expected = (g / (1 + np.exp(-g)) * (x @ up)) @ down
  params = {"gate_DF": gate, "up_DF": up, "down_FD": down}
  params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params)
  got = FeedForward(4, 5, 1.0).apply({"params": params}, jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)
