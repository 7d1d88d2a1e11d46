"""FP8 matmuls as a model calls them: `linear` with its gradients, `matmul` of what is quantised.

Of the operands, activations and their gradients have 1x128 tiles along the contraction and weights
128x128 blocks (`recipe`). The weight gradient contracts over tokens; its operands are transposed
copies, since Hopper multiplies FP8 only where the contraction lies innermost.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import dispatch
from pallas_kernels.fp8 import api as fp8
from pallas_kernels.fp8.formats import TILE
from pallas_kernels.gemm import mgpu, ref, tpu, xla
from pallas_kernels.gemm.recipe import V3, Call, Quantizer, Recipe, transposed

_FORMS = {"ref": ref.matmul, "xla": xla.matmul, "tpu": tpu.matmul, "mgpu": mgpu.matmul}


def matmul(
  x_MK: jax.Array,
  x_scale: jax.Array,
  w_NK: jax.Array,
  w_scale: jax.Array,
  *,
  out_dtype: jnp.dtype = jnp.bfloat16,
  implementation: str | None = None,
) -> jax.Array:
  """x . w^T of E4M3 values, scaled and summed in float32 every 128 of K.

  Args:
    x_MK: E4M3; all axes are multiples of 128.
    x_scale: float32 [K / 128, M], of 1x128 tiles.
    w_NK: E4M3.
    w_scale: float32 [N / 128, K / 128], of 128x128 blocks, or [K / 128, N], of 1x128 tiles.

  Raises:
    ValueError: shapes that do not belong together.
  """
  (M, K), (N, K_w) = x_MK.shape, w_NK.shape
  scales = ((N // TILE, K // TILE), (K // TILE, N))
  if K_w != K or x_scale.shape != (K // TILE, M) or w_scale.shape not in scales:
    raise ValueError(
      f"values of {M}x{K} and {N}x{K_w} with scales {x_scale.shape} and {w_scale.shape} do not "
      f"make a product; the scales are ({K // TILE}, {M}) and one of {scales}."
    )
  return dispatch.call(
    "gemm.matmul", implementation, _FORMS, x_MK, x_scale, w_NK, w_scale, out_dtype=out_dtype
  )


def linear(
  x_MK: jax.Array,
  w_NK: jax.Array,
  *,
  out_dtype: jnp.dtype = jnp.bfloat16,
  recipe: Recipe = V3,
  implementation: str | None = None,
) -> jax.Array:
  """x . w^T [M, N] with all three matmuls in FP8; differentiable in x and w.

  For the backward pass it keeps the input's 1x128 tiles and the quantised weight, a byte per
  element. Gradients have the dtypes of x and w; the weight's is computed in float32.

  Args:
    x_MK: float32 or bfloat16; any number of tokens, at least one.
    w_NK: float32 or bfloat16. Axes that are no multiples of 128 are filled up with zeros.
  """
  call = Call(Quantizer(recipe, implementation), jnp.dtype(out_dtype), x_MK.dtype, w_NK.dtype)
  (M, _), N = x_MK.shape, w_NK.shape[0]
  return _linear(call, filled_up(x_MK), filled_up(w_NK))[:M, :N]


def filled_up(x: jax.Array) -> jax.Array:
  """Zeros at the end of both axes, up to multiples of 128."""
  missing = [(0, -size % TILE) for size in x.shape]
  return jnp.pad(x, missing) if any(after for _, after in missing) else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linear(call: Call, x_MK: jax.Array, w_NK: jax.Array) -> jax.Array:
  return _forward(call, x_MK, w_NK)[0]


def _forward(call: Call, x_MK: jax.Array, w_NK: jax.Array):
  x, w = call.quantizer.rows(x_MK), call.quantizer.blocks(w_NK)
  return product(call.quantizer, x, w, call.out_dtype), (x, w)


def _backward(call: Call, kept, dy_MN: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, w = kept
  dy, dy_columns = call.quantizer.gradient(dy_MN)
  dx_MK = product(call.quantizer, dy, transposed(w), call.x_dtype)
  dw_NK = product(call.quantizer, dy_columns, call.quantizer.regrouped(x), jnp.float32)
  return dx_MK, dw_NK.astype(call.w_dtype)


_linear.defvjp(_forward, _backward)


def product(q: Quantizer, x: fp8.Quantized, w: fp8.Quantized, dtype: jnp.dtype) -> jax.Array:
  """x . w^T by the quantiser's kernels."""
  return matmul(*x, *w, out_dtype=dtype, implementation=q.implementation)
