"""MLA equals its equations written head by head, and its absorbed form in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import MLAConfig, RopeConfig
from deepseek_jax.model.mla import MLA
from deepseek_jax.ops.rope import angles, frequencies, softmax_scale
from deepseek_jax.types import Span

B, T, D, H = 2, 9, 14, 3
ROPE = RopeConfig(scaling="yarn", factor=4.0, original_context=8, mscale=0.8, mscale_all_dim=0.8)
CONFIGS = {
  "query latent": MLAConfig(q_latent=8, kv_latent=11, nope_dim=6, rope_dim=4, v_dim=5),
  "no query latent": MLAConfig(kv_latent=11, nope_dim=6, rope_dim=4, v_dim=5),
}
POSITIONS = np.array([[*range(5), *range(4)], [*range(9)]])
SEGMENTS = np.array([[1] * 5 + [2] * 4, [1] * 7 + [0] * 2])
SPAN = Span(jnp.asarray(POSITIONS), jnp.asarray(SEGMENTS))
X = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, D)), jnp.float32)


def layer(config, block=64):
  return MLA(D, H, config, ROPE, 0.3, block)


def run(config, params, x_BTD, absorbed, block=64):
  rotation = angles(ROPE, config.rope_dim, SPAN.positions_BT)
  inputs = (x_BTD, rotation, SPAN, SPAN, None, None, absorbed)
  return layer(config, block).apply({"params": params}, *inputs)[0]


def random_params(config):
  rotation = angles(ROPE, config.rope_dim, SPAN.positions_BT)
  inputs = (X, rotation, SPAN, SPAN, None, None, False)
  init = functools.partial(layer(config).init, absorbed=False)
  shapes = jax.eval_shape(init, jax.random.key(0), *inputs[:-1])["params"]
  rng = np.random.default_rng(1)
  draw = {k: rng.normal(size=v.shape) * 0.4 + ("norm" in k) for k, v in shapes.items()}
  return {k: v.astype(np.float32) for k, v in draw.items()}


def slow(config, params, x_BTD):
  """2405.04434, equations 9 to 19 and 37 to 47, one head and row at a time."""
  p = {k: np.asarray(v, np.float64) for k, v in params.items()}

  def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

  out = np.zeros((B, T, D))
  for b, x in enumerate(np.asarray(x_BTD, np.float64)):
    turn = np.exp(1j * POSITIONS[b][:, None] * frequencies(ROPE, config.rope_dim))

    def rotate(y, turn=turn):
      z = (y[:, 0::2] + 1j * y[:, 1::2]) * turn
      return np.stack([z.real, z.imag], -1).reshape(y.shape)

    latent = norm(x @ p["kv_down_DC"], p["kv_norm_C"])
    k_rope = rotate(x @ p["k_rope_DR"])
    if config.q_latent:
      source, up, rope = norm(x @ p["q_down_DQ"], p["q_norm_Q"]), p["q_up_QHK"], p["q_rope_QHR"]
    else:
      source, up, rope = x, p["q_up_DHK"], p["q_rope_DHR"]
    same = SEGMENTS[b][:, None] == SEGMENTS[b][None]
    mask = same & (POSITIONS[b][None] <= POSITIONS[b][:, None])
    for h in range(H):
      nope = (source @ up[:, h]) @ (latent @ p["k_up_CHK"][:, h]).T
      scores = nope + rotate(source @ rope[:, h]) @ k_rope.T
      e = np.where(mask, np.exp(scores * softmax_scale(ROPE, 10)), 0)
      out[b] += e / e.sum(-1, keepdims=True) @ (latent @ p["v_up_CHU"][:, h]) @ p["out_HUD"][h]
  return out


compiled = jax.jit(run, static_argnums=(0, 3))


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_its_equations(name):
  params = random_params(CONFIGS[name])
  got = compiled(CONFIGS[name], params, X, False)
  np.testing.assert_allclose(got, slow(CONFIGS[name], params, X), atol=2e-5)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def gradients(config, params, x_BTD, absorbed, block):
  def loss(params, x):
    out = run(config, params, x, absorbed, block)
    return jnp.sin(2 * out).sum(), out

  (_, out), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x_BTD)
  return out, *grads


@pytest.mark.parametrize(("name", "block"), [("query latent", 4), ("no query latent", 64)])
def test_absorbed_equals_expanded_in_values_and_gradients(name, block):
  config = CONFIGS[name]
  params = random_params(config)
  expected = jax.device_get(gradients(config, params, X, False, 64))
  got = jax.device_get(gradients(config, params, X, True, block))
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected)):
    scale = max(1.0, float(np.abs(y).max()))
    np.testing.assert_allclose(x, y, atol=2e-5 * scale, err_msg=str(path))


def test_the_norms_of_both_latents_count():
  config = CONFIGS["query latent"]
  params = random_params(config)
  first = compiled(config, params, X, False)
  for name in ("q_norm_Q", "kv_norm_C"):
    other = compiled(config, {**params, name: params[name] * np.float32(1.5)}, X, False)
    assert np.abs(np.asarray(other) - first).max() > 1e-2
  # Scaling a down-projection is undone by its norm.
  params = {**params, "q_down_DQ": 7 * params["q_down_DQ"], "kv_down_DC": 7 * params["kv_down_DC"]}
  np.testing.assert_allclose(compiled(config, params, X, False), first, atol=1e-4)
