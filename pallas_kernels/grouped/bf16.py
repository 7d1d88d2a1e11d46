"""Grouped matmul in bfloat16: tokamax's kernels where it is installed, else a loop in XLA.

tokamax wants Python 3.12 and brings some 85 packages, so it is an extra and imported when called.
"""

import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp

from pallas_kernels import dispatch
from pallas_kernels.fp8.formats import TILE
from pallas_kernels.fp8.operands import xla_operand
from pallas_kernels.grouped import xla
from pallas_kernels.grouped.layout import Layout, masked


def grouped_matmul_bf16(
  x_MK: jax.Array, w_GNK: jax.Array, layout: Layout, *, implementation: str | None = None
) -> jax.Array:
  """Each row times the transposed matrix of its group, operands rounded to bfloat16, sums float32.

  Differentiable in x and w. Whatever padding holds, its results and gradients are zero.

  Args:
    x_MK: rows as `layout` places them; the result has their dtype.
    w_GNK: the groups' matrices, of any float dtype.
    implementation: "tpu" and "mgpu" are both the kernel that tokamax chooses for the device.
  """
  forms: dict[str, Callable[..., jax.Array]]
  forms = {"ref": _ref, "xla": _xla, "tpu": _tokamax, "mgpu": _tokamax}
  return dispatch.call("grouped.matmul_bf16", implementation, forms, x_MK, w_GNK, layout)


def _ref(x_MK: jax.Array, w_GNK: jax.Array, layout: Layout) -> jax.Array:
  x_TRK = _rounded(masked(x_MK, layout)).reshape(-1, TILE, x_MK.shape[1])
  w_TNK = _rounded(w_GNK)[jnp.maximum(layout.group_T, 0)]
  y_TRN = jnp.einsum("trk,tnk->trn", x_TRK, w_TNK, precision="highest")
  return y_TRN.reshape(x_MK.shape[0], -1).astype(x_MK.dtype)


@jax.custom_vjp
def _xla(x_MK: jax.Array, w_GNK: jax.Array, layout: Layout) -> jax.Array:
  x_MK = masked(x_MK, layout)
  return xla.rows(_operand(x_MK), _operand(w_GNK), layout, x_MK.dtype)


def _xla_forward(x_MK: jax.Array, w_GNK: jax.Array, layout: Layout) -> tuple[jax.Array, tuple]:
  x_bf16_MK = masked(x_MK, layout).astype(jnp.bfloat16)
  return _xla(x_MK, w_GNK, layout), (x_bf16_MK, w_GNK, layout)


def _xla_backward(residuals: tuple, dy_MN: jax.Array) -> tuple[jax.Array, jax.Array, None]:
  x_MK, w_GNK, layout = residuals
  d_MN = _operand(masked(dy_MN, layout))
  dx_MK = xla.rows(d_MN, _operand(w_GNK).swapaxes(1, 2), layout, dy_MN.dtype)
  return dx_MK, xla.matrices(d_MN.T, _operand(x_MK).T, layout).astype(w_GNK.dtype), None


_xla.defvjp(_xla_forward, _xla_backward)


def _tokamax(x_MK: jax.Array, w_GNK: jax.Array, layout: Layout) -> jax.Array:
  if importlib.util.find_spec("tokamax") is None:
    raise dispatch.Unsupported("tokamax is not installed.")
  import tokamax

  y_MN = tokamax.ragged_dot(
    masked(x_MK, layout).astype(jnp.bfloat16),
    w_GNK.astype(jnp.bfloat16).swapaxes(1, 2),
    jnp.diff(layout.edge_H) * TILE,
    preferred_element_type=x_MK.dtype,
  )
  return masked(y_MN, layout)  # what tokamax leaves in rows of no group is not said


def _rounded(x: jax.Array) -> jax.Array:
  return x.astype(jnp.bfloat16).astype(jnp.float32)


def _operand(x: jax.Array) -> jax.Array:
  return xla_operand(_rounded(x))
