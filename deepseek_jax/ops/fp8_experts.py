"""Routed experts by grouped kernels, in FP8: the function of ops/grouped.py at the precision "fp8".

Rows of choices stand by expert, each expert's from a multiple of 128 (`pallas_kernels.grouped`).
Tokens are quantised before they are sent to their experts, as V3 sends them (2412.19437, section
3.3.3). Kept for the backward pass are E4M3 values: of the tokens, of SwiGLU's inputs, of weights.

Axes besides the house's: R choices (N * A), M rows with padding.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from deepseek_jax.ops.precision import Precision
from deepseek_jax.ops.swiglu import swiglu_vjp
from pallas_kernels.fp8 import api as fp8
from pallas_kernels.fp8.ref import dequantize_rows
from pallas_kernels.gemm.api import filled_up
from pallas_kernels.gemm.recipe import Quantizer, transposed
from pallas_kernels.grouped.api import product, weight_gradient
from pallas_kernels.grouped.layout import Layout, combined, from_rows, to_rows


def experts(
  p: Precision,
  x_ND: jax.Array,
  weights_NA: jax.Array,
  stacks: tuple[Any, Any, Any],
  layout: Layout,
) -> jax.Array:
  """y_ND: the sum over choices of weight * down(silu(gate x) * up x), in x's dtype.

  Args:
    stacks: gate and up [E, D, F], down [E, F, D]; D and F are multiples of 128.
    layout: of the choices' experts; choices without a row contribute nothing.
  """
  return _experts(p.quantizer, x_ND, weights_NA, stacks, layout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _experts(q: Quantizer, x_ND, weights_NA, stacks, layout: Layout) -> jax.Array:
  return _forward(q, x_ND, weights_NA, stacks, layout)[0]


def _forward(q: Quantizer, x_ND, weights_NA, stacks, layout: Layout) -> tuple[jax.Array, tuple]:
  A = weights_NA.shape[1]
  x = q.rows(filled_up(x_ND))
  gate, up, down = (q.blocks(w) for w in stacks)
  x_M = _sent(x, layout, A)
  g_MF, u_MF = (product(q, x_M, transposed(w), layout, x_ND.dtype) for w in (gate, up))
  o_MD = product(q, q.hidden(g_MF, u_MF), transposed(down), layout, x_ND.dtype)
  y_ND = combined(o_MD, weights_NA, layout)
  empty = [w[:, :0] for w in stacks]  # for their dtypes
  kept = x, q.rows(g_MF), q.rows(u_MF), weights_NA, (gate, up, down), empty, layout
  return y_ND.astype(x_ND.dtype), kept


def _backward(q: Quantizer, kept: tuple, dy_ND: jax.Array) -> tuple:
  x, g, u, weights_NA, (gate, up, down), empty, layout = kept
  (N, D), A, dtype = dy_ND.shape, weights_NA.shape[1], dy_ND.dtype
  weight_M1 = to_rows(weights_NA.reshape(N * A, 1).astype(jnp.float32), layout)
  d, d_columns = q.gradient(to_rows(dy_ND, layout))
  dh_MF = product(q, d, down, layout, jnp.float32)
  h_MF, dg_MF, du_MF = swiglu_vjp(dequantize_rows(*g), dequantize_rows(*u), dh_MF * weight_M1)
  dweight_M = jnp.sum(dh_MF * h_MF, axis=-1)
  (dg, dg_columns), (du, du_columns) = q.gradient(dg_MF), q.gradient(du_MF)
  x_columns = q.regrouped(_sent(x, layout, A))
  pairs = (
    (x_columns, dg_columns),
    (x_columns, du_columns),
    (q.columns(h_MF * weight_M1), d_columns),
  )
  d_stacks = tuple(
    weight_gradient(q, *pair, layout).astype(like.dtype)
    for pair, like in zip(pairs, empty, strict=True)
  )
  dx_MD = product(q, dg, gate, layout, jnp.float32) + product(q, du, up, layout, jnp.float32)
  dx_ND = from_rows(dx_MD, layout).reshape(N, A, D).sum(axis=1)
  dweights_NA = from_rows(dweight_M[:, None], layout).reshape(N, A)
  return dx_ND.astype(dtype), dweights_NA.astype(weights_NA.dtype), d_stacks, None


_experts.defvjp(_forward, _backward)


def _sent(x: fp8.Quantized, layout: Layout, top_k: int) -> fp8.Quantized:
  """The tokens' tiles in the rows of their choices; zeros in padding."""
  values_ND, scale_CN = x
  token_M = layout.choice_M // top_k  # of padding: one past the last token

  def take(a: jax.Array, axis: int) -> jax.Array:
    taken = jnp.take(a, jnp.minimum(token_M, a.shape[axis] - 1), axis=axis)
    held = layout.held_M[:, None] if axis == 0 else layout.held_M
    return jnp.where(held, taken, jnp.zeros((), a.dtype))

  return take(values_ND, 0), take(scale_CN, 1)
