"""The expert layer equals a loop over tokens and experts, and keeps its symmetries."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import MoEConfig
from deepseek_jax.model.moe import MoE
from deepseek_jax.ops import routing

B, T, D, E, F = 2, 9, 12, 8, 5
V3 = MoEConfig(experts=E, top_k=2, expert_ff=F, groups=4, top_groups=2, scale=2.5)
V2 = MoEConfig(
  experts=E, top_k=3, expert_ff=F, shared=2, groups=4, top_groups=3, scoring="softmax",
  group_score="max", selection_bias=False, normalize=False, scale=3.0,
)  # fmt: skip
CONFIGS = {"v3": V3, "v2": V2, "unshared": dataclasses.replace(V3, shared=0)}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, T, D)).astype(np.float32)
BIAS = RNG.normal(size=E).astype(np.float32)
SEGMENTS = np.where(np.arange(T) < [[T], [6]], 1, 0)


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, x_BTD, bias_E=BIAS, segments_BT=SEGMENTS):
  layer = MoE(D, config, 0.3, "auto", None)
  return layer.apply({"params": params}, x_BTD, segments_BT, bias_E)


def params_of(config):
  rng = np.random.default_rng(1)
  shapes = {"router_DE": (D, E), "gate_EDF": (E, D, F), "up_EDF": (E, D, F), "down_EFD": (E, F, D)}
  params = {k: (rng.normal(size=s) * 0.5).astype(np.float32) for k, s in shapes.items()}
  if config.shared:
    W = config.shared * F
    shared = {"gate_DF": (D, W), "up_DF": (D, W), "down_FD": (W, D)}
    params["shared"] = {k: (rng.normal(size=s) * 0.5).astype(np.float32) for k, s in shared.items()}
  return params


def slow(config, params):
  """Token by token: the chosen experts' and the shared experts' SwiGLU."""
  p = jax.tree.map(lambda w: np.asarray(w, np.float64), params)

  def swiglu(x, gate, up, down):
    g = x @ gate
    return (g / (1 + np.exp(-g)) * (x @ up)) @ down

  x_ND = np.asarray(X, np.float64).reshape(-1, D)
  experts_NA, weights_NA, *_ = map(
    np.asarray, routing.route(jnp.asarray(x_ND @ p["router_DE"]), BIAS, config)
  )
  out = np.zeros_like(x_ND)
  for n, x in enumerate(x_ND):
    for e, w in zip(np.asarray(experts_NA[n]), weights_NA[n]):
      out[n] += w * swiglu(x, p["gate_EDF"][e], p["up_EDF"][e], p["down_EFD"][e])
    if config.shared:
      out[n] += swiglu(x, *(p["shared"][k] for k in ("gate_DF", "up_DF", "down_FD")))
  return out.reshape(B, T, D), np.asarray(experts_NA).reshape(B, T, -1)


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_a_loop_over_tokens_and_experts(name):
  config = CONFIGS[name]
  out, report = jax.device_get(run(config, params_of(config), X))
  expected, experts_BTA = slow(config, params_of(config))
  np.testing.assert_array_equal(report.experts_LBTA, experts_BTA)
  np.testing.assert_allclose(out, expected, atol=5e-5)
  counted = experts_BTA[np.asarray(SEGMENTS) > 0]
  np.testing.assert_array_equal(report.load_LE, np.bincount(counted.ravel(), minlength=E))


@pytest.mark.parametrize("name", ["v3", "v2"])
@pytest.mark.parametrize("seed", range(4))
def test_renaming_experts_changes_nothing(name, seed):
  """Groups in any order, and the experts of each group in any order."""
  config, params = CONFIGS[name], params_of(CONFIGS[name])
  rng = np.random.default_rng(seed)
  order = rng.permuted(np.arange(E).reshape(4, 2)[rng.permutation(4)], axis=1).reshape(-1)
  renamed = {k: w if k == "shared" else w[order] for k, w in params.items()}
  renamed["router_DE"] = params["router_DE"][:, order]
  out, report = jax.device_get(run(config, params, X))
  got, moved = jax.device_get(run(config, renamed, X, BIAS[order]))
  np.testing.assert_allclose(got, out, atol=5e-5)
  np.testing.assert_array_equal(moved.load_LE, report.load_LE[order])
  np.testing.assert_allclose(moved.balance_L, report.balance_L, rtol=1e-5)


def test_the_bias_has_no_gradient_and_the_router_has():
  params = params_of(V3)

  def loss(params, bias):
    return jnp.sin(run(V3, params, X, bias)[0]).sum()

  grads, bias_grad = jax.device_get(jax.grad(loss, argnums=(0, 1))(params, BIAS))
  assert not np.any(bias_grad)
  assert all(np.any(g) for g in jax.tree.leaves(grads))


def test_the_balance_loss_reaches_the_router_alone():
  grads = jax.device_get(jax.grad(lambda p: run(V3, p, X)[1].balance_L)(params_of(V3)))
  assert np.any(grads.pop("router_DE"))
  assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_the_router_stays_in_float32_under_bfloat16():
  """Scores apart by less than bfloat16 resolves still choose by value."""
  config = MoEConfig(experts=2, top_k=1, expert_ff=F, normalize=False)
  x = jnp.ones((B, T, D), jnp.bfloat16)
  params = {k: w[..., :2] if k == "router_DE" else w for k, w in params_of(config).items()}
  params = {k: w[:2] if k.endswith(("EDF", "EFD")) else w for k, w in params.items()}
  for better in (0, 1):
    router = np.full((D, 2), 0.25, np.float32)
    router[0, better] += 1e-4
    out, report = run(config, {**params, "router_DE": router}, x, jnp.zeros(2))
    assert out.dtype == jnp.bfloat16
    assert np.all(np.asarray(report.experts_LBTA) == better)
