"""Linear layers and SwiGLU in FP8 by kernels: the function of ops/linear.py and ops/feed_forward.py
at the precision "fp8", on E4M3 operands (2412.19437, section 3.3).

Matrices of any size are filled up with zeros to multiples of 128, which widens no scale. What is
kept for the backward pass is E4M3, weights included, so that they are quantised once.
"""

import functools

import jax
import jax.numpy as jnp

from deepseek_jax.ops.precision import Precision, Round
from deepseek_jax.ops.swiglu import swiglu_vjp
from pallas_kernels.fp8.ref import dequantize_rows
from pallas_kernels.gemm.api import filled_up, product
from pallas_kernels.gemm.recipe import Quantizer, transposed


def linear(p: Precision, x_ND: jax.Array, w_DF: jax.Array, keep: Round | None = None) -> jax.Array:
  """x @ w for x [..., D], in x's dtype; w's gradient is made in float32.

  `keep` says what of x stays until the backward pass; by default that is the E4M3 operand itself.
  """
  return _linear(p.quantizer, keep, x_ND, w_DF)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear(q: Quantizer, keep: Round | None, x_ND: jax.Array, w_DF: jax.Array) -> jax.Array:
  return _linear_forward(q, keep, x_ND, w_DF)[0]


def _linear_forward(
  q: Quantizer, keep: Round | None, x_ND: jax.Array, w_DF: jax.Array
) -> tuple[jax.Array, tuple]:
  x_MD = filled_up(x_ND.reshape(-1, x_ND.shape[-1]))
  x, w = q.rows(x_MD), q.blocks(filled_up(w_DF))
  y_MF = product(q, x, transposed(w), x_ND.dtype)
  kept = x if keep is None else keep(x_MD)
  return _cut(y_MF, x_ND, w_DF.shape[1]), (kept, w, w_DF[:, :0])


def _linear_backward(q: Quantizer, keep: Round | None, saved: tuple, dy_NF: jax.Array) -> tuple:
  kept, w, empty_D0 = saved
  x_columns = q.regrouped(kept) if keep is None else q.columns(kept.astype(jnp.float32))
  d, d_columns = q.gradient(filled_up(dy_NF.reshape(-1, dy_NF.shape[-1])))
  dx_MD = product(q, d, w, dy_NF.dtype)
  dw_DF = product(q, x_columns, d_columns, jnp.float32)
  D, F = empty_D0.shape[0], dy_NF.shape[-1]
  return _cut(dx_MD, dy_NF, D), dw_DF[:D, :F].astype(empty_D0.dtype)


_linear.defvjp(_linear_forward, _linear_backward)


def down(p: Precision, g_NF: jax.Array, u_NF: jax.Array, w_FD: jax.Array) -> jax.Array:
  """(silu(g) * u) @ w, for g and u [..., F]; of both the E4M3 values are kept."""
  return _down(p.quantizer, g_NF, u_NF, w_FD)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _down(q: Quantizer, g_NF: jax.Array, u_NF: jax.Array, w_FD: jax.Array) -> jax.Array:
  return _down_forward(q, g_NF, u_NF, w_FD)[0]


def _down_forward(
  q: Quantizer, g_NF: jax.Array, u_NF: jax.Array, w_FD: jax.Array
) -> tuple[jax.Array, tuple]:
  g_MF, u_MF = (filled_up(x.reshape(-1, x.shape[-1])) for x in (g_NF, u_NF))
  w = q.blocks(filled_up(w_FD))
  y_MD = product(q, q.hidden(g_MF, u_MF), transposed(w), g_NF.dtype)
  return _cut(y_MD, g_NF, w_FD.shape[1]), (q.rows(g_MF), q.rows(u_MF), w, w_FD[:, :0])


def _down_backward(q: Quantizer, saved: tuple, dy_ND: jax.Array) -> tuple:
  g, u, w, empty_F0 = saved
  d, d_columns = q.gradient(filled_up(dy_ND.reshape(-1, dy_ND.shape[-1])))
  dh_MF = product(q, d, w, jnp.float32)
  h_MF, dg_MF, du_MF = swiglu_vjp(dequantize_rows(*g), dequantize_rows(*u), dh_MF)
  dw_FD = product(q, q.columns(h_MF), d_columns, jnp.float32)
  F, D = empty_F0.shape[0], dy_ND.shape[-1]
  dg_NF, du_NF = (_cut(x, dy_ND, F).astype(dy_ND.dtype) for x in (dg_MF, du_MF))
  return dg_NF, du_NF, dw_FD[:F, :D].astype(empty_F0.dtype)


_down.defvjp(_down_forward, _down_backward)


def _cut(y_MF: jax.Array, like: jax.Array, width: int) -> jax.Array:
  """y without what was filled up, with the leading axes of `like`."""
  rows = like.size // like.shape[-1]
  return y_MF[:rows, :width].reshape(*like.shape[:-1], width)
