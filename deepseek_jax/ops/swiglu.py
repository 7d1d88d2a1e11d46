"""The derivative of SwiGLU, which is recomputed from its inputs wherever it is needed."""

import jax


def swiglu_vjp(g: jax.Array, u: jax.Array, dh: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Of h = silu(g) * u: h itself, and the gradients of g and u given that of h."""
  sigmoid = jax.nn.sigmoid(g)
  silu = g * sigmoid
  return silu * u, dh * u * (sigmoid + silu * (1 - sigmoid)), dh * silu
