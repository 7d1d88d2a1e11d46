"""SwiGLU, and what of it is kept for the backward pass."""

import jax

from deepseek_jax.ops import fp8_products
from deepseek_jax.ops.linear import linear, low_rank_change, weight_gradient
from deepseek_jax.ops.low_rank import LowRank
from deepseek_jax.ops.precision import PLAIN, Precision, Rounding
from deepseek_jax.ops.swiglu import swiglu_vjp


def feed_forward(
  x_ND: jax.Array,
  gate_DF: jax.Array | LowRank,
  up_DF: jax.Array | LowRank,
  down_FD: jax.Array | LowRank,
  precision: Precision = PLAIN,
) -> jax.Array:
  """down(silu(gate x) * up x) for x [..., D]."""
  g_NF, u_NF = linear(x_ND, gate_DF, precision), linear(x_ND, up_DF, precision)
  return down(g_NF, u_NF, down_FD, precision)


def down(
  g_NF: jax.Array, u_NF: jax.Array, w_FD: jax.Array | LowRank, precision: Precision
) -> jax.Array:
  """(silu(g) * u) @ w.

  Where operands are rounded, g and u are kept rounded too, and silu(g) * u is made again from them
  (2412.19437, section 3.3.3, which says it of experts; here dense layers do likewise).
  """
  if precision.plain:
    return linear(jax.nn.silu(g_NF) * u_NF, w_FD)
  if isinstance(w_FD, LowRank):
    change = low_rank_change(jax.nn.silu(g_NF) * u_NF, w_FD)
    return down(g_NF, u_NF, w_FD.base, precision) + change
  if precision.by_kernels:
    return fp8_products.down(precision, g_NF, u_NF, w_FD)
  return _down(precision.rounding, g_NF, u_NF, w_FD)


def _rounded(r: Rounding, g_NF: jax.Array, u_NF: jax.Array, w_FD: jax.Array) -> jax.Array:
  return (r.rows(jax.nn.silu(g_NF) * u_NF) @ r.weights(w_FD)).astype(g_NF.dtype)


_down = jax.custom_vjp(_rounded, nondiff_argnums=(0,))


def _forward(
  r: Rounding, g_NF: jax.Array, u_NF: jax.Array, w_FD: jax.Array
) -> tuple[jax.Array, tuple]:
  return _rounded(r, g_NF, u_NF, w_FD), (r.keep(g_NF), r.keep(u_NF), w_FD)


def _backward(r: Rounding, saved: tuple, d_ND: jax.Array) -> tuple:
  g_NF, u_NF, w_FD = r.kept(saved[0]), r.kept(saved[1]), saved[2]
  F, D = w_FD.shape
  d = d_ND.reshape(-1, D)
  dh_NF = (r.gradient_rows(d) @ r.weights(w_FD).T).reshape(g_NF.shape)
  h_NF, dg_NF, du_NF = swiglu_vjp(g_NF, u_NF, dh_NF)
  dw_FD = weight_gradient(r, h_NF.reshape(-1, F), d)
  return dg_NF.astype(d_ND.dtype), du_NF.astype(d_ND.dtype), dw_FD.astype(w_FD.dtype)


_down.defvjp(_forward, _backward)
