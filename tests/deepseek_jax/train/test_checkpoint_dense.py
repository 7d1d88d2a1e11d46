"""A model without experts, whose router bias has no elements, is saved and restored like any."""

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.train.checkpoint import Checkpointer, load_weights
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.state import abstract_state, init_state
from deepseek_jax.types import Weights


def test_round_trip_of_a_dense_state(tmp_path):
  weights = Weights({"norm_D": jnp.arange(3.0)}, jnp.zeros((0, 0)))

  def create():
    return init_state(weights, make_optimizer(OptimizerConfig()), ema=True)

  state = create()
  checkpointer = Checkpointer(tmp_path)
  checkpointer.save(2, state, {"tokens": 7})
  checkpointer.wait()
  restored, host = checkpointer.restore(abstract_state(create))
  checkpointer.close()
  assert host == {"tokens": 7}
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)
  loaded = load_weights(tmp_path)
  assert loaded.router_bias_LE.shape == (0, 0)
  assert np.array_equal(loaded.params["norm_D"], weights.params["norm_D"])
