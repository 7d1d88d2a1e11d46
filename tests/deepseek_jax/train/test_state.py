"""The bias rule and the optimiser against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.presets import preset
from deepseek_jax.train import state as state_lib
from deepseek_jax.train.optimizer import OptimizerConfig, decayed, make_optimizer
from deepseek_jax.types import Weights


def weights(seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  params = {
    "gate_DF": jax.random.normal(keys[0], (4, 6)),
    "norm_D": jax.random.normal(keys[1], (2, 4)),
    "q_bias_HK": jax.random.normal(keys[2], (2, 3)),
  }
  return Weights(params, jnp.zeros((2, 4)))


def numpy_adamw(params, grads_of_steps, config, rate):
  """AdamW written out, on flat dictionaries."""
  params = {k: np.asarray(v, np.float64) for k, v in params.items()}
  mu, nu = ({k: np.zeros_like(v) for k, v in params.items()} for _ in range(2))
  for step, grads in enumerate(grads_of_steps, start=1):
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in grads.values()))
    for k, g in grads.items():
      g = g * min(1.0, config.clip_norm / norm)
      mu[k] = config.beta1 * mu[k] + (1 - config.beta1) * g
      nu[k] = config.beta2 * nu[k] + (1 - config.beta2) * g * g
      m, v = mu[k] / (1 - config.beta1**step), nu[k] / (1 - config.beta2**step)
      decay = config.weight_decay if k == "gate_DF" else 0.0
      params[k] = params[k] - rate * (m / (np.sqrt(v) + config.epsilon) + decay * params[k])
  return params


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 3e-3)])
def test_updates_equal_numpy_adamw(dtype, tolerance):
  config = OptimizerConfig(moment_dtype=dtype)
  tx = make_optimizer(config)
  start = weights()
  state = state_lib.init_state(start, tx)
  rng = np.random.default_rng(0)
  grads = [
    {k: rng.normal(size=v.shape).astype(np.float32) for k, v in start.params.items()}
    for _ in range(4)
  ]
  update = jax.jit(lambda s, g: state_lib.apply_gradients(s, g, None, tx, 0.01))
  for g in grads:
    state, metrics = update(state, g)
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in g.values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
  wanted = numpy_adamw(start.params, grads, config, 0.01)
  for k, value in state.weights.params.items():
    np.testing.assert_allclose(value, wanted[k], rtol=tolerance, atol=tolerance)
  assert int(state.step) == 4
  moments = jax.tree.leaves(state.opt_state)
  assert {m.dtype.name for m in moments if m.ndim} == {dtype}


def test_norms_and_biases_do_not_decay():
  assert decayed(weights().params) == {"gate_DF": True, "norm_D": False, "q_bias_HK": False}


def test_bias_moves_against_the_load_as_in_numpy():
  rng = np.random.default_rng(1)
  load_LE = rng.integers(0, 9, (2, 4)).astype(np.float32)
  load_LE[1] = 5  # a balanced row does not move
  start = weights()
  start = start.replace(router_bias_LE=jnp.asarray(rng.normal(size=(2, 4)), jnp.float32))
  tx = make_optimizer(OptimizerConfig())
  state = state_lib.init_state(start, tx)
  after, metrics = state_lib.apply_gradients(
    state, start.params, jnp.asarray(load_LE), tx, 0.1, 0.001
  )
  bias_LE = np.asarray(start.router_bias_LE)
  wanted_LE = bias_LE + 0.001 * np.sign(load_LE.mean(1, keepdims=True) - load_LE)
  np.testing.assert_allclose(after.weights.router_bias_LE, wanted_LE, rtol=1e-6)
  np.testing.assert_array_equal(after.weights.router_bias_LE[1], bias_LE[1])
  violation = np.mean(load_LE.max(1) / load_LE.mean(1) - 1)
  np.testing.assert_allclose(metrics["max_violation"], violation, rtol=1e-6)


def test_gradients_leave_the_bias_alone_without_loads():
  tx = make_optimizer(OptimizerConfig())
  state = state_lib.init_state(weights(), tx)
  after, metrics = state_lib.apply_gradients(state, state.weights.params, None, tx, 0.1, 0.5)
  np.testing.assert_array_equal(after.weights.router_bias_LE, 0)
  assert "max_violation" not in metrics


def test_moving_average_follows_the_weights():
  tx = make_optimizer(OptimizerConfig())
  state = state_lib.init_state(weights(), tx, ema=True)
  after, _ = state_lib.apply_gradients(
    state, state.weights.params, jnp.eye(2, 4), tx, 0.1, 0.5, ema_decay=0.9
  )
  wanted = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state.weights, after.weights)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.ema, wanted)


def test_only_v3_routers_have_a_bias_to_move():
  found = {n: state_lib.selects_by_bias(preset(n)) for n in ("v3_mini", "v2_lite_16b")}
  assert found == {"v3_mini": True, "v2_lite_16b": False}
  assert not state_lib.selects_by_bias(preset("smollm2_135m"))


def test_bad_optimizer_fields_are_named():
  with pytest.raises(ConfigError, match="optimizer.clip_norm"):
    OptimizerConfig(clip_norm=0.0)
  for name in ("epsilon", "weight_decay"):
    for value in (-1.0, float("nan"), float("inf")):
      with pytest.raises(ConfigError, match=f"optimizer.{name} is {value}"):
        OptimizerConfig(**{name: value})
