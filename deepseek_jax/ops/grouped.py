"""Grouped feed-forward: every expert computes its own tokens, however many they are.

Two passes with hand-written derivatives. The first is batched matmuls over C slots per expert, of
static shape. The second takes what did not fit: a loop over blocks of rows of one expert, whose
number of turns is known only at run time and is zero when everything fitted. `jax.lax.ragged_dot`
would say this in one line, but on a CPU it computes every expert for every token.

Local axis letters: C slots of an expert, M rows of one overflow block, I items (choices, N * A).
Rows that hold no item carry weight zero, and a zero in the gradient of the output.

Operands are rounded as a precision says (ops/precision.py). A tile along tokens spans slots of one
expert, or the rows of one block of the second pass. In the gradient of `down` a token's weight is
put to the other operand, h, than the paper's combination has it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepseek_jax.ops.oriented import Oriented, product
from deepseek_jax.ops.precision import PLAIN, Precision, Round, Rounding
from deepseek_jax.ops.slots import Slots
from deepseek_jax.ops.swiglu import swiglu_vjp


class Stacks(NamedTuple):
  """The experts' matrices; oriented only where nothing is differentiated."""

  gate_EDF: jax.Array | Oriented
  up_EDF: jax.Array | Oriented
  down_EFD: jax.Array | Oriented


class _Overflow(NamedTuple):
  """Blocks of the second pass: where each expert's begin, and how many rows a block has."""

  bound_E: jax.Array  # blocks of the experts up to and including e
  start_E: jax.Array  # of the expert's left-over items, in order_I
  end_E: jax.Array
  order_I: jax.Array  # padded by a block, so that a slice never shifts
  rows: int


def grouped_ffn(
  x_ND: jax.Array, weights_NA: jax.Array, stacks: Stacks, slots: Slots, precision: Precision
) -> jax.Array:
  """y_ND: the sum over choices of weight * down(silu(gate x) * up x), exact at any load."""
  return _grouped(precision.rounding, x_ND, weights_NA, stacks, slots)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped(
  r: Rounding, x_ND: jax.Array, weights_NA: jax.Array, stacks: Stacks, slots: Slots
) -> jax.Array:
  return _forward(r, x_ND, weights_NA, stacks, slots)[0]


def _forward(
  r: Rounding, x_ND: jax.Array, weights_NA: jax.Array, stacks: Stacks, slots: Slots
) -> tuple[jax.Array, tuple]:
  n, a = weights_NA.shape
  given, dtype = (r.keep(x_ND), weights_NA, stacks, slots), x_ND.dtype
  x_ND, stacks = r.rows(x_ND), Stacks(*map(r.weights, stacks))
  experts, capacity = slots.item_EC.shape
  y_ND = jnp.zeros_like(x_ND, jnp.float32)
  g_ECF = u_ECF = None
  if capacity:
    x_ECD = _rows(x_ND, slots.item_EC // a)
    g_ECF = product(x_ECD, stacks.gate_EDF)
    u_ECF = product(x_ECD, stacks.up_EDF)
    o_ECD = product(r.rows(jax.nn.silu(g_ECF) * u_ECF), stacks.down_EFD)
    g_ECF, u_ECF = r.keep(g_ECF), r.keep(u_ECF)
    y_ND = _combine(o_ECD, slots, jnp.where(slots.slotted_NA, weights_NA, 0))
  weights_I = weights_NA.reshape(n * a)
  overflow = _overflow(slots, n)

  def block(i: jax.Array, y_ND: jax.Array) -> jax.Array:
    expert, item_M, filled_M = _block(overflow, i)
    weight_M = jnp.where(filled_M, weights_I[item_M], 0)
    o_MD = one_expert(_rows(x_ND, item_M // a), stacks, expert, r.rows)
    return y_ND.at[item_M // a].add(o_MD * weight_M[:, None], mode="promise_in_bounds")

  y_ND = jax.lax.fori_loop(0, overflow.bound_E[-1], block, y_ND)
  return y_ND.astype(dtype), (*given, g_ECF, u_ECF)


def _backward(r: Rounding, saved: tuple, dy_ND: jax.Array) -> tuple:
  x_ND, weights_NA, given, slots, g_ECF, u_ECF = saved
  x_ND, stacks = r.kept(x_ND), Stacks(*map(r.weights, given))
  n, a = weights_NA.shape
  experts, capacity = slots.item_EC.shape
  weights_I = weights_NA.reshape(n * a)
  dx_ND = jnp.zeros_like(x_ND, jnp.float32)
  dw_I = jnp.zeros_like(weights_I, jnp.float32)
  d_stacks = Stacks(*(jnp.zeros_like(w, jnp.float32) for w in given))
  if capacity:
    token_EC = slots.item_EC // a
    weight_EC = jnp.where(slots.filled_EC, weights_I[slots.item_EC], 0)
    x_ECD, dy_ECD = _rows(x_ND, token_EC), _rows(dy_ND, token_EC)
    x_ECD, dy_ECD = (_cleared(r, rows, slots.filled_EC) for rows in (x_ECD, dy_ECD))
    dh_ECF = jnp.einsum("ecd,efd->ecf", r.gradient_rows(dy_ECD), stacks.down_EFD)
    dg_ECF, du_ECF, h_ECF, dw_EC = _activation_vjp(r.kept(g_ECF), r.kept(u_ECF), dh_ECF, weight_EC)
    x_ECD, h_ECF = r.columns(x_ECD), r.columns(h_ECF)
    d_stacks = Stacks(
      _stack_gradient("ecd,ecf->edf", x_ECD, r.gradient_columns(dg_ECF)),
      _stack_gradient("ecd,ecf->edf", x_ECD, r.gradient_columns(du_ECF)),
      _stack_gradient("ecf,ecd->efd", h_ECF, r.gradient_columns(dy_ECD)),
    )
    dx_ECD = jnp.einsum("ecf,edf->ecd", r.gradient_rows(dg_ECF), stacks.gate_EDF)
    dx_ECD += jnp.einsum("ecf,edf->ecd", r.gradient_rows(du_ECF), stacks.up_EDF)
    dx_ND = _combine(dx_ECD, slots, slots.slotted_NA.astype(jnp.float32))
    dw_NA = dw_EC.reshape(experts * capacity)[slots.slot_NA]
    dw_I = jnp.where(slots.slotted_NA, dw_NA, 0).reshape(n * a)
  overflow = _overflow(slots, n)

  def block(i: jax.Array, carry: tuple) -> tuple:
    dx_ND, dw_I, d_stacks = carry
    expert, item_M, filled_M = _block(overflow, i)
    weight_M = jnp.where(filled_M, weights_I[item_M], 0)
    gate_DF, up_DF, down_FD = (_expert(w, expert) for w in stacks)
    x_MD, dy_MD = (_cleared(r, _rows(z, item_M // a), filled_M) for z in (x_ND, dy_ND))
    dg_MF, du_MF, h_MF, dw_M = _activation_vjp(
      x_MD @ gate_DF, x_MD @ up_DF, r.gradient_rows(dy_MD) @ down_FD.T, weight_M
    )
    pairs = ((x_MD, dg_MF), (x_MD, du_MF), (h_MF, dy_MD))
    d_expert = (r.columns(left).T @ r.gradient_columns(right) for left, right in pairs)
    d_stacks = Stacks(*(w.at[expert].add(d) for w, d in zip(d_stacks, d_expert)))
    dx_MD = r.gradient_rows(dg_MF) @ gate_DF.T + r.gradient_rows(du_MF) @ up_DF.T
    dx_ND = dx_ND.at[item_M // a].add(dx_MD, mode="promise_in_bounds")
    dw_I = dw_I.at[item_M].add(jnp.where(filled_M, dw_M, 0), mode="promise_in_bounds")
    return dx_ND, dw_I, d_stacks

  dx_ND, dw_I, d_stacks = jax.lax.fori_loop(0, overflow.bound_E[-1], block, (dx_ND, dw_I, d_stacks))
  d_stacks = Stacks(*(d.astype(w.dtype) for d, w in zip(d_stacks, given)))
  return dx_ND.astype(dy_ND.dtype), dw_I.reshape(n, a).astype(weights_NA.dtype), d_stacks, None


_grouped.defvjp(_forward, _backward)


def _activation_vjp(
  g: jax.Array, u: jax.Array, dh: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Of weight * (silu(g) * u) @ down, given dh = dy @ down.T: dg, du, what meets dy, dweight."""
  weight = weight[..., None].astype(g.dtype)
  h, dg, du = swiglu_vjp(g, u, dh * weight)
  return dg, du, h * weight, jnp.sum((dh * h).astype(jnp.float32), axis=-1)


def _stack_gradient(axes: str, left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)


def _rows(x_ND: jax.Array, token: jax.Array) -> jax.Array:
  return x_ND.at[token].get(mode="promise_in_bounds")


def _cleared(r: Rounding, rows: jax.Array, filled: jax.Array) -> jax.Array:
  """Zeros in rows that hold no item, which would widen the scale of their tile."""
  return rows if r == PLAIN.rounding else jnp.where(filled[..., None], rows, 0)


def _expert(stack: jax.Array | Oriented, expert: jax.Array) -> Any:
  def pick(x: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, expert, 0, keepdims=False)

  return jax.tree.map(pick, stack)


def one_expert(
  x_MD: jax.Array, stacks: Stacks, expert: jax.Array, rows: Round = PLAIN.rounding.rows
) -> jax.Array:
  """down(silu(gate x) * up x) of one expert; `rows` rounds what `down` multiplies."""
  gate_DF, up_DF, down_FD = (_expert(w, expert) for w in stacks)
  return product(rows(jax.nn.silu(product(x_MD, gate_DF)) * product(x_MD, up_DF)), down_FD)


def _combine(rows_ECD: jax.Array, slots: Slots, weights_NA: jax.Array) -> jax.Array:
  """Sums each token's rows, float32; a choice at a time, which a CPU fuses into one loop."""
  rows_SD = rows_ECD.reshape(-1, rows_ECD.shape[-1])
  y_ND = jnp.zeros((weights_NA.shape[0], rows_SD.shape[1]), jnp.float32)
  for choice in range(weights_NA.shape[1]):
    weight_N = weights_NA[:, choice].astype(jnp.float32)
    y_ND += weight_N[:, None] * _rows(rows_SD, slots.slot_NA[:, choice])
  return y_ND


def _overflow(slots: Slots, tokens: int) -> _Overflow:
  capacity = slots.item_EC.shape[1]
  rows = max(min(16, capacity or 16), min(64, (capacity or tokens) // 4 // 8 * 8))
  left_E = jnp.maximum(slots.count_E - capacity, 0)
  return _Overflow(
    bound_E=jnp.cumsum(-(-left_E // rows)),
    start_E=slots.start_E + capacity,
    end_E=slots.start_E + slots.count_E,
    order_I=jnp.pad(slots.order_I, (0, rows)),
    rows=rows,
  )


def _block(overflow: _Overflow, i: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Expert, items and filled rows of overflow block i."""
  expert = jnp.sum(overflow.bound_E <= i)
  first = jnp.where(expert > 0, overflow.bound_E[expert - 1], 0)
  start = overflow.start_E[expert] + (i - first) * overflow.rows
  item_M = jax.lax.dynamic_slice(overflow.order_I, (start,), (overflow.rows,))
  filled_M = start + jnp.arange(overflow.rows) < overflow.end_E[expert]
  return expert, item_M, filled_M
