"""Grouped-query attention equals full attention with its key/value heads repeated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import GQAConfig, RopeConfig
from deepseek_jax.model.gqa import GQA
from deepseek_jax.ops.rope import angles, frequencies
from deepseek_jax.types import Span

B, T, D, H, G, K = 2, 7, 10, 4, 2, 6
ROPE = RopeConfig(theta=100.0)
SPAN = Span(jnp.tile(jnp.arange(T), (B, 1)), jnp.ones((B, T), jnp.int32))
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
SHAPES = {
  "q_DHK": (D, H, K), "k_DGK": (D, G, K), "v_DGK": (D, G, K), "out_HKD": (H, K, D),
  "q_bias_HK": (H, K), "k_bias_GK": (G, K), "v_bias_GK": (G, K),
}  # fmt: skip
PARAMS = {k: jnp.asarray(RNG.normal(size=s) * 0.5, jnp.float32) for k, s in SHAPES.items()}


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, x_BTD):
  layer = GQA(D, H, config, ROPE, 1e-6, 0.3, 64)
  rotation = angles(ROPE, K, SPAN.positions_BT)
  return layer.apply({"params": params}, x_BTD, rotation, SPAN, SPAN, None, None)[0]


def slow(params, x_BTD):
  """Head by head, with rotate-half as complex numbers over the two halves."""
  p = {k: np.asarray(v, np.float64) for k, v in params.items()}
  out = np.zeros((B, T, D))
  turn = np.exp(1j * np.arange(T)[:, None] * frequencies(ROPE, K))

  def rotate(y):
    z = (y[:, : K // 2] + 1j * y[:, K // 2 :]) * turn
    return np.concatenate([z.real, z.imag], -1)

  for b, x in enumerate(np.asarray(x_BTD, np.float64)):
    for h in range(H):
      g = h // (H // G)
      q = rotate(x @ p["q_DHK"][:, h] + p["q_bias_HK"][h])
      k = rotate(x @ p["k_DGK"][:, g] + p["k_bias_GK"][g])
      v = x @ p["v_DGK"][:, g] + p["v_bias_GK"][g]
      e = np.tril(np.exp(q @ k.T / K**0.5))
      out[b] += e / e.sum(-1, keepdims=True) @ v @ p["out_HKD"][h]
  return out


def test_equals_its_equations():
  np.testing.assert_allclose(run(GQAConfig(G, K, True), PARAMS, X), slow(PARAMS, X), atol=2e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_equals_repeated_heads(bias):
  params = {k: v for k, v in PARAMS.items() if bias or "bias" not in k}
  repeated = {
    k: jnp.repeat(v, H // G, axis=k.rpartition("_")[2].index("G")) if "G" in k else v
    for k, v in params.items()
  }
  got = run(GQAConfig(G, K, bias), params, X)
  np.testing.assert_allclose(got, run(GQAConfig(H, K, bias), repeated, X), atol=1e-5)
