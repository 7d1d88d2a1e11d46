"""The grouped matmuls that are compiled for chips that are not there."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.fp8.formats import E4M3
from pallas_kernels.grouped import api, mgpu, tpu
from pallas_kernels.grouped.layout import Layout, padded_rows
from pallas_kernels.grouped.shapes import SHAPES

EVERY_DAY = SHAPES[2], SHAPES[-1]
FORMS = {"tpu": tpu, "mgpu": mgpu}
f8, f32, i32 = (
  functools.partial(jax.ShapeDtypeStruct, dtype=d) for d in (E4M3, "float32", "int32")
)


def layout(groups, choices):
  rows = padded_rows(choices, groups)
  return Layout(i32((choices,)), i32((rows,)), i32((rows // 128,)), i32((groups + 1,)))


def m_arguments(G, R, N, K):
  M = padded_rows(R, G)
  b_scale = f32((G, N // 128, K // 128))
  return f8((M, K)), f32((K // 128, M)), f8((G, N, K)), b_scale, layout(G, R)


def k_arguments(G, R, N, K):
  M = padded_rows(R, G)
  return f8((N, M)), f32((M // 128, N)), f8((K, M)), f32((M // 128, K)), layout(G, R)


def training(x_MK, w_GNK, dy_MN, layout, implementation=None):
  """A layer, forward and backward."""

  def linear(x_MK, w_GNK):
    return api.grouped_linear(x_MK, w_GNK, layout, implementation=implementation)

  y_MN, backward = jax.vjp(linear, x_MK, w_GNK)
  return y_MN, *backward(dy_MN)


def training_arguments(G=3, R=300, N=256, K=384):
  M = padded_rows(R, G)
  bf16 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
  return bf16((M, K)), f32((G, N, K)), bf16((M, N)), layout(G, R)


def programs(chip):
  """Both kernels at two of the shapes, in the dtypes of their uses, and a small layer."""
  form = "mgpu" if chip == "h100" else "tpu"
  layer = functools.partial(training, implementation=form), training_arguments()
  m_grouped = functools.partial(FORMS[form].m_grouped, out_dtype=jnp.float32)
  wide = m_grouped, m_arguments(*SHAPES[0][1:])
  return {"layer": layer, "m float32": wide, **_at(EVERY_DAY, chip)}


def all_shapes(chip):
  return _at(SHAPES, chip)


def _at(shapes, chip):
  kernels = FORMS["mgpu" if chip == "h100" else "tpu"]
  m_grouped = functools.partial(kernels.m_grouped, out_dtype=jnp.bfloat16)
  found = {}
  for name, *shape in shapes:
    found[f"m {name}"] = m_grouped, m_arguments(*shape)
    found[f"k {name}"] = kernels.k_grouped, k_arguments(*shape)
  return found
