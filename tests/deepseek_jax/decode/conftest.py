"""What the engine's tests draw with."""

import numpy as np
import pytest

from deepseek_jax.decode.sampling import sample_keys
from tests.deepseek_jax.decode.mini import CONFIGS, random_weights


@pytest.fixture(scope="session")
def decoding_mini():
  """`decoding_mini(kind)`: model and weights."""
  made = {kind: random_weights(config) for kind, config in CONFIGS.items()}
  return made.__getitem__


@pytest.fixture(scope="session")
def draw():
  """`draw(engine, weights, prompts, params, seed)`: the engine's samples with keys of the seed."""

  def call(engine, weights, prompts, params, seed=7):
    count = len(prompts)
    keys_B = sample_keys(seed, 0, np.arange(count), np.zeros(count, np.int32))
    return engine.generate(weights, prompts, params, keys_B)

  return call


@pytest.fixture(scope="session")
def random_prompts():
  """`random_prompts(count, shortest, longest, seed)`."""

  def call(count, shortest, longest, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(shortest, longest, count, endpoint=True)
    return [rng.integers(1, 37, size).tolist() for size in sizes]

  return call
