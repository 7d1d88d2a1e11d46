"""Seeds of 64 bits: small ones mean what they always meant, and no two share their streams."""

import dataclasses

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.data.config import DataConfig
from deepseek_jax.decode.sampling import sample_keys
from deepseek_jax.evaluate.evaluation import Protocol
from deepseek_jax.seeds import random_key
from tests.experiments.test_configs import job


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1])
def test_seeds_of_32_bits_have_the_keys_that_jax_gives_them(seed):
  key = jax.random.key(seed)
  np.testing.assert_array_equal(jax.random.key_data(random_key(seed)), jax.random.key_data(key))
  if seed < 2**31:
    folded = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, 3), 5), 2)
    mine = sample_keys(seed, 3, np.array([5]), np.array([2]))[0]
    np.testing.assert_array_equal(jax.random.key_data(mine), jax.random.key_data(folded))


def test_distinct_seeds_have_distinct_keys():
  seeds = [0, 1, 2**31, 3_000_000_000, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**63, 2**64 - 1]
  keys = {tuple(np.asarray(jax.random.key_data(random_key(seed)))) for seed in seeds}
  assert len(keys) == len(seeds)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_other_numbers_are_one_sentence(seed):
  for make in (
    random_key,
    lambda s: sample_keys(s, 0, np.zeros(1, int), np.zeros(1, int)),
    lambda s: DataConfig(seed=s),
    lambda s: Protocol("mini", seed=s),
    lambda s: dataclasses.replace(job("pretrain_tiny"), seed=s),
  ):
    with pytest.raises(ConfigError, match=f"seed is {seed}"):
      make(seed)
