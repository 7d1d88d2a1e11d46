"""Matrix products whose weight gradient transposes the narrower of its two operands."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def linear(x_ND: jax.Array, w_DF: jax.Array) -> jax.Array:
  """x @ w for x [..., D].

  The gradient of w contracts over tokens, for which XLA on a CPU copies the left operand
  transposed; JAX's own rule always has the output's gradient on the left. Where that is the wide
  one, as in a feed-forward's first products, the copies took a quarter of a mini model's step.
  """
  return x_ND @ w_DF


def _forward(x_ND: jax.Array, w_DF: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return x_ND @ w_DF, (x_ND, w_DF)


def _backward(saved: tuple[jax.Array, jax.Array], d_NF: jax.Array) -> tuple[jax.Array, jax.Array]:
  x_ND, w_DF = saved
  x, d = x_ND.reshape(-1, x_ND.shape[-1]), d_NF.reshape(-1, d_NF.shape[-1])
  left, right = (x, d) if w_DF.shape[0] <= w_DF.shape[1] else (d, x)
  dw = jax.lax.dot_general(left, right, (((0,), (0,)), ((), ())))
  dw_DF = dw if left is x else dw.T
  return jnp.matmul(d_NF, w_DF.T), dw_DF.astype(w_DF.dtype)


linear.defvjp(_forward, _backward)


def to_heads(x_BTD: jax.Array, w_DHK: jax.Array) -> jax.Array:
  """`linear` into heads: [B, T, D] -> [B, T, H, K]."""
  D, H, K = w_DHK.shape
  return linear(x_BTD, w_DHK.reshape(D, H * K)).reshape(*x_BTD.shape[:-1], H, K)


def from_heads(x_BTHK: jax.Array, w_HKD: jax.Array) -> jax.Array:
  """`linear` out of heads: [B, T, H, K] -> [B, T, D]."""
  H, K, D = w_HKD.shape
  return linear(x_BTHK.reshape(*x_BTHK.shape[:-2], H * K), w_HKD.reshape(H * K, D))
