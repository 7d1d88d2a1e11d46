"""A program that no compiler takes."""

import jax
import jax.numpy as jnp


def programs(chip):
  def refuse(x):
    raise TypeError("no such thing as a " + str(x.shape))

  return {"refused": (refuse, (jax.ShapeDtypeStruct((3,), jnp.float32),))}
