"""Linear layers and SwiGLU in FP8 by kernels: the function of ops/linear.py and ops/feed_forward.py
at the precision "fp8", on E4M3 operands (2412.19437, section 3.3).

Matrices of any size are filled up with zeros to multiples of 128, which widens no scale. What is
kept for the backward pass is E4M3, weights included, so that they are quantised once.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from deepseek_jax.ops.precision import Precision
from deepseek_jax.ops.swiglu import swiglu_vjp
from pallas_kernels.fp8 import api as fp8
from pallas_kernels.fp8.formats import TILE
from pallas_kernels.fp8.ref import dequantize_rows
from pallas_kernels.gemm import api as gemm
from pallas_kernels.gemm.api import filled_up

Keep = Callable[[jax.Array], Any]


def linear(p: Precision, x_ND: jax.Array, w_DF: jax.Array, keep: Keep | None = None) -> jax.Array:
  """x @ w for x [..., D], in x's dtype; w's gradient is made in float32.

  `keep` says what of x stays until the backward pass; by default that is the E4M3 operand itself.
  """
  return _linear(p, keep, x_ND, w_DF)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear(p: Precision, keep: Keep | None, x_ND: jax.Array, w_DF: jax.Array) -> jax.Array:
  return _linear_forward(p, keep, x_ND, w_DF)[0]


def _linear_forward(
  p: Precision, keep: Keep | None, x_ND: jax.Array, w_DF: jax.Array
) -> tuple[jax.Array, tuple]:
  x_MD = filled_up(x_ND.reshape(-1, x_ND.shape[-1]))
  x, w = rows(p, x_MD), blocks(p, w_DF)
  y_MF = product(p, x, transposed(w), x_ND.dtype)
  kept = x if keep is None else keep(x_MD)
  return _cut(y_MF, x_ND, w_DF.shape[1]), (kept, w, w_DF[:, :0])


def _linear_backward(p: Precision, keep: Keep | None, saved: tuple, dy_NF: jax.Array) -> tuple:
  kept, w, empty_D0 = saved
  x_MD = restored(kept) if keep is None else kept.astype(jnp.float32)
  d, d_columns = gradient(p, filled_up(dy_NF.reshape(-1, dy_NF.shape[-1])))
  dx_MD = product(p, d, w, dy_NF.dtype)
  dw_DF = product(p, columns(p, x_MD), d_columns, jnp.float32)
  D, F = empty_D0.shape[0], dy_NF.shape[-1]
  return _cut(dx_MD, dy_NF, D), dw_DF[:D, :F].astype(empty_D0.dtype)


_linear.defvjp(_linear_forward, _linear_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def down(p: Precision, g_NF: jax.Array, u_NF: jax.Array, w_FD: jax.Array) -> jax.Array:
  """(silu(g) * u) @ w, for g and u [..., F]; of both the E4M3 values are kept."""
  return _down_forward(p, g_NF, u_NF, w_FD)[0]


def _down_forward(
  p: Precision, g_NF: jax.Array, u_NF: jax.Array, w_FD: jax.Array
) -> tuple[jax.Array, tuple]:
  g_MF, u_MF = (filled_up(x.reshape(-1, x.shape[-1])) for x in (g_NF, u_NF))
  w = blocks(p, w_FD)
  y_MD = product(p, hidden(p, g_MF, u_MF), transposed(w), g_NF.dtype)
  return _cut(y_MD, g_NF, w_FD.shape[1]), (rows(p, g_MF), rows(p, u_MF), w, w_FD[:, :0])


def _down_backward(p: Precision, saved: tuple, dy_ND: jax.Array) -> tuple:
  g, u, w, empty_F0 = saved
  d, d_columns = gradient(p, filled_up(dy_ND.reshape(-1, dy_ND.shape[-1])))
  dh_MF = product(p, d, w, jnp.float32)
  h_MF, dg_MF, du_MF = swiglu_vjp(restored(g), restored(u), dh_MF)
  dw_FD = product(p, columns(p, h_MF), d_columns, jnp.float32)
  F, D = empty_F0.shape[0], dy_ND.shape[-1]
  dg_NF, du_NF = (_cut(x, dy_ND, F).astype(dy_ND.dtype) for x in (dg_MF, du_MF))
  return dg_NF, du_NF, dw_FD[:F, :D].astype(empty_F0.dtype)


down.defvjp(_down_forward, _down_backward)


def rows(p: Precision, x_MK: jax.Array) -> fp8.Quantized:
  """x in 1x128 tiles."""
  return fp8.quantize_rows(x_MK, implementation=p.implementation)


def columns(p: Precision, x_MK: jax.Array) -> fp8.Quantized:
  """x transposed, in tiles of 128 of its rows: the operand of a weight's gradient."""
  return fp8.quantize_columns(x_MK, implementation=p.implementation)


def blocks(p: Precision, w_DF: jax.Array) -> fp8.Quantized:
  """A weight in 128x128 blocks, as the input's gradient multiplies it."""
  return fp8.quantize_blocks(filled_up(w_DF), implementation=p.implementation)


def transposed(w: fp8.Quantized) -> fp8.Quantized:
  """A weight as the output multiplies it; blocks are square, so nothing is rounded again."""
  values, scale = w
  return values.swapaxes(-1, -2), scale.swapaxes(-1, -2)


def hidden(p: Precision, g_MF: jax.Array, u_MF: jax.Array) -> fp8.Quantized:
  """silu(g) * u in 1x128 tiles."""
  return fp8.swiglu_quantize(g_MF, u_MF, implementation=p.implementation)


def gradient(p: Precision, d_MN: jax.Array) -> tuple[fp8.Quantized, fp8.Quantized]:
  """An output's gradient as the gradients of the input and of the weight multiply it."""
  if p.name == "fp8":
    return fp8.quantize_both(d_MN, implementation=p.implementation)
  values_MN, scale = fp8.quantize_blocks(d_MN, implementation=p.implementation)
  by_row, by_column = (jnp.repeat(s, TILE, axis=1) for s in (scale.T, scale))
  return (values_MN, by_row), (values_MN.T, by_column)


def restored(x: fp8.Quantized) -> jax.Array:
  """The float32 matrix of 1x128 tiles."""
  return dequantize_rows(*x)


def product(p: Precision, x: fp8.Quantized, w: fp8.Quantized, dtype: Any) -> jax.Array:
  """x w', summed in float32."""
  return gemm.matmul(*x, *w, out_dtype=dtype, implementation=p.implementation)


def _cut(y_MF: jax.Array, like: jax.Array, width: int) -> jax.Array:
  """y without what was filled up, with the leading axes of `like`."""
  rows = like.size // like.shape[-1]
  return y_MF[:rows, :width].reshape(*like.shape[:-1], width)
