"""Matrix products whose weight gradient transposes the narrower of its two operands."""

from typing import Any

import jax
import jax.numpy as jnp

from deepseek_jax.ops import fp8_products
from deepseek_jax.ops.low_rank import LowRank
from deepseek_jax.ops.oriented import Oriented, product
from deepseek_jax.ops.precision import PLAIN, Precision, Rounding

Matrix = jax.Array | Oriented | LowRank


def linear(x_ND: jax.Array, w_DF: Matrix, precision: Precision = PLAIN) -> jax.Array:
  """x @ w for x [..., D], its operands and those of its gradients rounded as `precision` says.

  The gradient of w contracts over tokens, for which XLA on a CPU copies the left operand
  transposed; JAX's own rule always has the output's gradient on the left. Where that is the wide
  one, as in a feed-forward's first products, the copies took a quarter of a mini model's step.
  An oriented matrix, which only decoding has, has no gradient. The change of one of low rank is
  not rounded.
  """
  if isinstance(w_DF, Oriented):
    return product(x_ND, w_DF)
  if isinstance(w_DF, LowRank):
    return linear(x_ND, w_DF.base, precision) + low_rank_change(x_ND, w_DF)
  if precision.by_kernels:
    return fp8_products.linear(precision, x_ND, w_DF)
  return _product(precision.rounding, x_ND, w_DF)


def low_rank_change(x_NI: jax.Array, w: LowRank) -> jax.Array:
  """What A and B add to a product: scale (x A) B, for x [..., I]."""
  return w.scale * linear(linear(x_NI, w.a_IY), w.b_YO)


def _rounded(r: Rounding, x_ND: jax.Array, w_DF: jax.Array) -> jax.Array:
  return (r.rows(x_ND) @ r.weights(w_DF)).astype(x_ND.dtype)


_product = jax.custom_vjp(_rounded, nondiff_argnums=(0,))


def _forward(r: Rounding, x_ND: jax.Array, w_DF: jax.Array) -> tuple[jax.Array, tuple]:
  # Not `_product`, inside which a rematerialisation policy would see no product to keep.
  return _rounded(r, x_ND, w_DF), (r.keep(x_ND), w_DF)


def _backward(r: Rounding, saved: tuple[Any, jax.Array], d_ND: jax.Array) -> tuple:
  x_ND, w_DF = r.kept(saved[0]), saved[1]
  x, d = x_ND.reshape(-1, x_ND.shape[-1]), d_ND.reshape(-1, d_ND.shape[-1])
  dx_ND = jnp.matmul(r.gradient_rows(d).reshape(d_ND.shape), r.weights(w_DF).T)
  return dx_ND.astype(d_ND.dtype), weight_gradient(r, x, d).astype(w_DF.dtype)


_product.defvjp(_forward, _backward)


def weight_gradient(r: Rounding, x_ND: jax.Array, d_NF: jax.Array) -> jax.Array:
  """x' d, the narrower of both transposed."""
  x, d = r.columns(x_ND), r.gradient_columns(d_NF)
  narrow_first = x.shape[1] <= d.shape[1]
  left, right = (x, d) if narrow_first else (d, x)
  dw = jax.lax.dot_general(left, right, (((0,), (0,)), ((), ())))
  return dw if narrow_first else dw.T


def to_heads(x_BTD: jax.Array, w_DHK: Matrix, precision: Precision = PLAIN) -> jax.Array:
  """`linear` into heads: [B, T, D] -> [B, T, H, K]."""
  if isinstance(w_DHK, LowRank):
    y_BTHK = to_heads(x_BTD, w_DHK.base, precision)
    return y_BTHK + low_rank_change(x_BTD, w_DHK).reshape(y_BTHK.shape)
  w_DM: jax.Array | Oriented  # M: H * K
  if isinstance(w_DHK, Oriented):
    H, K, D = w_DHK.outputs_first.shape
    w_DM = Oriented(w_DHK.outputs_first.reshape(H * K, D))
  else:
    D, H, K = w_DHK.shape
    w_DM = w_DHK.reshape(D, H * K)
  out = linear(x_BTD, w_DM, precision)
  return out.reshape(*x_BTD.shape[:-1], H, K)


def from_heads(x_BTHK: jax.Array, w_HKD: Matrix, precision: Precision = PLAIN) -> jax.Array:
  """`linear` out of heads: [B, T, H, K] -> [B, T, D]."""
  H, K = x_BTHK.shape[-2:]
  x_BTM = x_BTHK.reshape(*x_BTHK.shape[:-2], H * K)  # M: H * K
  if isinstance(w_HKD, LowRank):
    return from_heads(x_BTHK, w_HKD.base, precision) + low_rank_change(x_BTM, w_HKD)
  if isinstance(w_HKD, Oriented):
    return product(x_BTM, Oriented(w_HKD.outputs_first.reshape(-1, H * K)))
  w_MD = w_HKD.reshape(H * K, -1)
  r = precision.rounding
  if precision.by_kernels:
    return fp8_products.linear(precision, x_BTM, w_MD, r.keep_attended)
  return _product(r._replace(keep=r.keep_attended), x_BTM, w_MD)
