"""Grouped matmuls: of FP8 operands, and the linear layers of experts made of them.

The rows of x stand as `layout.arrange` says; `layout.to_rows` and `layout.from_rows` bring them
there and back. Every operation takes `implementation=None | "ref" | "xla" | "tpu" | "mgpu"`.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import dispatch
from pallas_kernels.fp8 import api as fp8
from pallas_kernels.fp8.formats import E4M3, TILE
from pallas_kernels.gemm.recipe import V3, Call, Quantizer, Recipe, transposed
from pallas_kernels.grouped import mgpu, ref, tpu, xla
from pallas_kernels.grouped.bf16 import grouped_matmul_bf16
from pallas_kernels.grouped.layout import Layout, masked

_M_FORMS = {
  "ref": ref.m_grouped,
  "xla": xla.m_grouped,
  "tpu": tpu.m_grouped,
  "mgpu": mgpu.m_grouped,
}
_K_FORMS = {
  "ref": ref.k_grouped,
  "xla": xla.k_grouped,
  "tpu": tpu.k_grouped,
  "mgpu": mgpu.k_grouped,
}
_Kept = tuple[fp8.Quantized, fp8.Quantized, Layout]  # x, w, and where rows stand
__all__ = ["grouped_linear", "grouped_matmul_bf16", "k_grouped", "m_grouped"]


def m_grouped(
  a_MK: jax.Array,
  a_scale_CM: jax.Array,
  b_GNK: jax.Array,
  b_scale_GNK: jax.Array,
  layout: Layout,
  *,
  out_dtype: jnp.dtype = jnp.bfloat16,
  implementation: str | None = None,
) -> jax.Array:
  """Each row times the transposed matrix of its group, [M, N]; rows of no group's tile are zero.

  A row depends on no other row, so what stands in padding stays there.

  Args:
    a_MK: E4M3 values in 1x128 tiles, a_scale_CM their scales, [K / 128, M].
    b_GNK: E4M3 values in 128x128 blocks, b_scale_GNK their scales, [G, N / 128, K / 128].
    out_dtype: bfloat16 or float32.

  Raises:
    ValueError: the shapes, dtypes or layout do not belong together.
  """
  (M, K), (G, N, _) = a_MK.shape, b_GNK.shape
  C = K // TILE
  _check("m_grouped", a_MK, a_scale_CM, b_GNK, b_scale_GNK)
  _require(K % TILE == 0 and N % TILE == 0, f"K = {K} and N = {N} must be multiples of {TILE}.")
  _require(b_GNK.shape[2] == K, f"a has K = {K}, b {b_GNK.shape[2]}.")
  _require(a_scale_CM.shape == (C, M), f"a_scale is {a_scale_CM.shape}, not {(C, M)}.")
  want = (G, N // TILE, C)
  _require(b_scale_GNK.shape == want, f"b_scale is {b_scale_GNK.shape}, not {want}.")
  _require((layout.rows, layout.groups) == (M, G), f"the layout is not of {M} rows, {G} groups.")
  operands = (a_MK, a_scale_CM, b_GNK, b_scale_GNK, layout)
  return dispatch.call(
    "grouped.m_grouped", implementation, _M_FORMS, *operands, out_dtype=out_dtype
  )


def k_grouped(
  a_NM: jax.Array,
  a_scale_TN: jax.Array,
  b_KM: jax.Array,
  b_scale_TK: jax.Array,
  layout: Layout,
  *,
  implementation: str | None = None,
) -> jax.Array:
  """The products a b^T over the rows of each group, float32 [G, N, K]; zeros for empty groups.

  Padding within a group's tiles takes part, so it must have been zero when it was quantised.

  Args:
    a_NM: E4M3 values, a tile of 128 rows sharing a scale, [M / 128, N] in a_scale_TN.
    b_KM: the same for the other operand, with scales [M / 128, K] in b_scale_TK.

  Raises:
    ValueError: the shapes, dtypes or layout do not belong together.
  """
  (N, M), K = a_NM.shape, b_KM.shape[0]
  _check("k_grouped", a_NM, a_scale_TN, b_KM, b_scale_TK)
  _require(K % TILE == 0 and N % TILE == 0, f"K = {K} and N = {N} must be multiples of {TILE}.")
  _require(
    b_KM.shape[1] == M == layout.rows, f"a has {M} rows, b {b_KM.shape[1]}; mind the layout."
  )
  T = M // TILE
  _require(a_scale_TN.shape == (T, N), f"a_scale is {a_scale_TN.shape}, not {(T, N)}.")
  _require(b_scale_TK.shape == (T, K), f"b_scale is {b_scale_TK.shape}, not {(T, K)}.")
  return dispatch.call(
    "grouped.k_grouped", implementation, _K_FORMS, a_NM, a_scale_TN, b_KM, b_scale_TK, layout
  )


def grouped_linear(
  x_MK: jax.Array,
  w_GNK: jax.Array,
  layout: Layout,
  *,
  out_dtype: jnp.dtype = jnp.bfloat16,
  recipe: Recipe = V3,
  implementation: str | None = None,
) -> jax.Array:
  """The linear layers of G experts with FP8 operands, differentiable in x and w (2412.19437, 3.3).

  Quantised as `recipe` says. Kept for the backward pass are the 1x128 tiles of x and the blocks of
  w, a byte per element. Whatever padding holds, NaN too, its results and gradients are
  zero.

  Args:
    x_MK: float32 or bfloat16, rows as `layout` places them; K a multiple of 128.
    w_GNK: float32 or bfloat16; N a multiple of 128. Its gradient is made in float32 and has its
      dtype, x's gradient has x's.
    out_dtype: bfloat16 or float32.
  """
  call = Call(Quantizer(recipe, implementation), jnp.dtype(out_dtype), x_MK.dtype, w_GNK.dtype)
  _, N, K = w_GNK.shape
  _require(K % TILE == 0 and N % TILE == 0, f"K = {K} and N = {N} must be multiples of {TILE}.")
  _require(x_MK.shape[1] == K, f"x has K = {x_MK.shape[1]}, w {K}.")
  return _linear(call, x_MK, w_GNK, layout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linear(call: Call, x_MK: jax.Array, w_GNK: jax.Array, layout: Layout) -> jax.Array:
  return _forward(call, x_MK, w_GNK, layout)[0]


def _forward(
  call: Call, x_MK: jax.Array, w_GNK: jax.Array, layout: Layout
) -> tuple[jax.Array, _Kept]:
  x, w = call.quantizer.rows(masked(x_MK, layout)), call.quantizer.blocks(w_GNK)
  return product(call.quantizer, x, w, layout, call.out_dtype), (x, w, layout)


def _backward(call: Call, kept: _Kept, dy_MN: jax.Array) -> tuple[jax.Array, jax.Array, None]:
  x, w, layout = kept
  dy, dy_columns = call.quantizer.gradient(masked(dy_MN, layout))
  dx_MK = product(call.quantizer, dy, transposed(w), layout, call.x_dtype)
  dw_GNK = weight_gradient(call.quantizer, dy_columns, call.quantizer.regrouped(x), layout)
  return dx_MK, dw_GNK.astype(call.w_dtype), None


_linear.defvjp(_forward, _backward)


def product(
  q: Quantizer, x: fp8.Quantized, w: fp8.Quantized, layout: Layout, out_dtype: jnp.dtype
) -> jax.Array:
  """`m_grouped` by the quantiser's kernels."""
  return m_grouped(*x, *w, layout, out_dtype=out_dtype, implementation=q.implementation)


def weight_gradient(q: Quantizer, a: fp8.Quantized, b: fp8.Quantized, layout: Layout) -> jax.Array:
  """`k_grouped` by the quantiser's kernels."""
  return k_grouped(*a, *b, layout, implementation=q.implementation)


def _check(op: str, a: jax.Array, a_scale: jax.Array, b: jax.Array, b_scale: jax.Array) -> None:
  _require(a.dtype == b.dtype == E4M3, f"{op} takes E4M3 values, not {a.dtype} and {b.dtype}.")
  f32 = a_scale.dtype == b_scale.dtype == jnp.float32
  _require(f32, f"{op} takes float32 scales, not {a_scale.dtype} and {b_scale.dtype}.")


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ValueError(message)
