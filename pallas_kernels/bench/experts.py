"""The cases of the grouped products, in FP8 and in bfloat16."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.bench import work
from pallas_kernels.bench.cases import ROUNDED, Case, Form, Operands
from pallas_kernels.fp8 import ref as quantizers
from pallas_kernels.fp8.formats import TILE
from pallas_kernels.grouped import api as grouped
from pallas_kernels.grouped import xla
from pallas_kernels.grouped.layout import Layout, arrange, masked, padded_rows
from pallas_kernels.grouped.shapes import SHAPES, SMALL


def grouped_cases(small: bool) -> Iterator[Case]:
  """Grouped products and weight gradients; choices fall on the groups at random, evenly."""
  for shape in SMALL if small else SHAPES:
    yield _m_grouped(*shape)
    yield _k_grouped(*shape)


def bf16_cases(small: bool) -> Iterator[Case]:
  """The grouped product in bfloat16, whose kernel is tokamax's."""
  for name, G, R, N, K in SMALL if small else SHAPES:
    expert = work.bfloat16(2 * R * N * K, R * K + G * N * K, R * N)

    def make(key: jax.Array, sizes=(G, R, N, K)) -> Operands:
      layout, x, w = _routed(key, *sizes)
      own = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), layout
      return {"own": own, "ragged": _ragged(*own)}

    ragged = Form(
      "ragged_dot", _ragged_rows, expert, ROUNDED, "ragged", lambda y, *own: masked(y, own[3])
    )
    yield Case(
      "grouped bfloat16",
      _grouped_name(name, G, R, N, K),
      grouped.grouped_matmul_bf16,
      make,
      expert,
      others=(ragged,),
    )


def _m_grouped(name: str, G: int, R: int, N: int, K: int) -> Case:
  def make(key: jax.Array) -> Operands:
    layout, x, w = _routed(key, G, R, N, K)
    x_rows = quantizers.quantize_rows(x)
    values, scale = quantizers.quantize_blocks(w.reshape(G * N, K))
    blocks = values.reshape(G, N, K), scale.reshape(G, N // TILE, K // TILE)
    x_bf16 = quantizers.dequantize_rows(*x_rows).astype(jnp.bfloat16)
    w_bf16 = quantizers.dequantize_blocks(values, scale).astype(jnp.bfloat16).reshape(G, N, K)
    bf16 = x_bf16, w_bf16, layout
    return {"own": (*x_rows, *blocks, layout), "bf16": bf16, "ragged": _ragged(*bf16)}

  def loop(x_MK, w_GNK, layout: Layout) -> jax.Array:
    return xla.rows(x_MK, w_GNK, layout, jnp.bfloat16)

  dots = work.bfloat16(2 * R * N * K, R * K + G * N * K, R * N)
  ragged = Form(
    "ragged_dot", _ragged_rows, dots, ROUNDED, "ragged", lambda y, *own: masked(y, own[3])
  )
  others = Form("bfloat16 loop", loop, dots, ROUNDED, "bf16"), ragged
  return Case(
    "m-grouped",
    _grouped_name(name, G, R, N, K),
    grouped.m_grouped,
    make,
    work.m_grouped(R, G, N, K),
    others=others,
  )


def _k_grouped(name: str, G: int, R: int, N: int, K: int) -> Case:
  def make(key: jax.Array) -> Operands:
    d_key, x_key = jax.random.split(key)
    layout, x, _ = _routed(x_key, G, R, 0, K)
    dy = masked(jax.random.normal(d_key, (layout.rows, N)), layout)
    columns = quantizers.quantize_columns(dy), quantizers.quantize_columns(x)
    bf16 = tuple(quantizers.dequantize_rows(*c).astype(jnp.bfloat16) for c in columns)
    sizes_G = jnp.diff(layout.edge_H) * TILE
    return {
      "own": (*columns[0], *columns[1], layout),
      "bf16": (*bf16, layout),
      "ragged": (bf16[0].T, bf16[1].T, sizes_G),
    }

  dots = work.bfloat16(2 * R * N * K, R * (N + K), G * N * K, out_bytes=4)
  others = (
    Form("bfloat16 loop", xla.matrices, dots, ROUNDED, "bf16"),
    Form("ragged_dot", _ragged_matrices, dots, ROUNDED, "ragged"),
  )
  return Case(
    "k-grouped",
    _grouped_name(name, G, R, N, K),
    grouped.k_grouped,
    make,
    work.k_grouped(R, G, N, K),
    others=others,
  )


def _grouped_name(name: str, G: int, R: int, N: int, K: int) -> str:
  return f"{name}: {R} choices, {G} x {N} x {K}"


def _routed(key: jax.Array, G: int, R: int, N: int, K: int) -> tuple[Layout, jax.Array, jax.Array]:
  """R choices that fall evenly on G groups, their rows [M, K], zero in padding, and [G, N, K]."""
  group_key, x_key, w_key = jax.random.split(key, 3)
  layout = arrange(jax.random.randint(group_key, (R,), 0, G), G)
  x_MK = masked(jax.random.normal(x_key, (padded_rows(R, G), K)), layout)
  return layout, x_MK, jax.random.normal(w_key, (G, N, K))


def _ragged(x_MK: jax.Array, w_GNK: jax.Array, layout: Layout) -> tuple[Any, ...]:
  """What `ragged_dot` takes: matrices with the contraction first, and rows of each group."""
  return x_MK, w_GNK.swapaxes(1, 2), jnp.diff(layout.edge_H) * TILE, layout


def _ragged_rows(x_MK: jax.Array, w_GKN: jax.Array, size_G: jax.Array, _: Layout) -> jax.Array:
  return jax.lax.ragged_dot(x_MK, w_GKN, size_G, preferred_element_type=jnp.bfloat16)


def _ragged_matrices(dy_MN: jax.Array, x_MK: jax.Array, size_G: jax.Array) -> jax.Array:
  numbers = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())),
    lhs_ragged_dimensions=[0],
    rhs_group_dimensions=[],
  )
  return jax.lax.ragged_dot_general(
    dy_MN, x_MK, size_G, numbers, preferred_element_type=jnp.float32
  )
