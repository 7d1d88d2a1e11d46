"""Seeds: whole numbers of 64 bits, and the random keys they stand for."""

import jax
import numpy as np

from deepseek_jax.config import require

_WORD = 2**32


def check_seed(name: str, seed: int, bound: int = 2**64) -> None:
  """ConfigError unless `seed` is a whole number from 0 up to, but not including, `bound`."""
  require(
    0 <= seed < bound,
    f"{name} is {seed}; give a whole number from 0 to {bound - 1}, for others share their streams.",
  )


def random_key(seed: int) -> jax.Array:
  """The key of a seed of up to 64 bits; distinct seeds have distinct keys.

  `jax.random.key` itself drops all but the low 32 bits. Those above are folded in only where
  there are any, so that smaller seeds keep the streams that JAX gives them.
  """
  seed = int(seed)
  check_seed("seed", seed)
  high, low = divmod(seed, _WORD)
  key = jax.random.key(np.uint32(low))
  return jax.random.fold_in(key, np.uint32(high)) if high else key
