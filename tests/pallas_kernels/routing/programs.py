"""The routing kernel at the models' shapes, for compilation."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.routing import tpu
from pallas_kernels.routing.shapes import SHAPES


def programs(chip):
  return {
    name: (
      functools.partial(tpu.route, rule=rule),
      (jax.ShapeDtypeStruct((N, E), jnp.float32), jax.ShapeDtypeStruct((E,), jnp.float32)),
    )
    for name, N, E, rule in SHAPES
  }
