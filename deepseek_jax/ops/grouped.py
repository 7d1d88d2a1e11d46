"""Grouped feed-forward: every expert computes its own tokens, however many they are.

Two passes with hand-written derivatives. The first is batched matmuls over C slots per expert, of
static shape. The second takes what did not fit: a loop over blocks of rows of one expert, whose
number of turns is known only at run time and is zero when everything fitted. `jax.lax.ragged_dot`
would say this in one line, but on a CPU it computes every expert for every token.

Local axis letters: C slots of an expert, M rows of one overflow block, I items (choices, N * A).
Rows that hold no item carry weight zero, and a zero in the gradient of the output.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from deepseek_jax.ops.slots import Slots


class Stacks(NamedTuple):
  """The experts' matrices."""

  gate_EDF: jax.Array
  up_EDF: jax.Array
  down_EFD: jax.Array


class _Overflow(NamedTuple):
  """Blocks of the second pass: where each expert's begin, and how many rows a block has."""

  bound_E: jax.Array  # blocks of the experts up to and including e
  start_E: jax.Array  # of the expert's left-over items, in order_I
  end_E: jax.Array
  order_I: jax.Array  # padded by a block, so that a slice never shifts
  rows: int


@jax.custom_vjp
def grouped_ffn(x_ND: jax.Array, weights_NA: jax.Array, stacks: Stacks, slots: Slots) -> jax.Array:
  """y_ND: the sum over choices of weight * down(silu(gate x) * up x), exact at any load."""
  return _forward(x_ND, weights_NA, stacks, slots)[0]


def _forward(
  x_ND: jax.Array, weights_NA: jax.Array, stacks: Stacks, slots: Slots
) -> tuple[jax.Array, tuple]:
  n, a = weights_NA.shape
  experts, capacity = slots.item_EC.shape
  y_ND = jnp.zeros_like(x_ND, jnp.float32)
  g_ECF = u_ECF = None
  if capacity:
    x_ECD = _rows(x_ND, slots.item_EC // a)
    g_ECF = jnp.einsum("ecd,edf->ecf", x_ECD, stacks.gate_EDF)
    u_ECF = jnp.einsum("ecd,edf->ecf", x_ECD, stacks.up_EDF)
    o_ECD = jnp.einsum("ecf,efd->ecd", jax.nn.silu(g_ECF) * u_ECF, stacks.down_EFD)
    y_ND = _combine(o_ECD, slots, jnp.where(slots.slotted_NA, weights_NA, 0))
  weights_I = weights_NA.reshape(n * a)
  overflow = _overflow(slots, n)

  def block(i: jax.Array, y_ND: jax.Array) -> jax.Array:
    expert, item_M, filled_M = _block(overflow, i)
    weight_M = jnp.where(filled_M, weights_I[item_M], 0)
    gate_DF, up_DF, down_FD = (_expert(w, expert) for w in stacks)
    x_MD = _rows(x_ND, item_M // a)
    o_MD = (jax.nn.silu(x_MD @ gate_DF) * (x_MD @ up_DF)) @ down_FD
    return y_ND.at[item_M // a].add(o_MD * weight_M[:, None], mode="promise_in_bounds")

  y_ND = jax.lax.fori_loop(0, overflow.bound_E[-1], block, y_ND)
  return y_ND.astype(x_ND.dtype), (x_ND, weights_NA, stacks, slots, g_ECF, u_ECF)


def _backward(saved: tuple, dy_ND: jax.Array) -> tuple:
  x_ND, weights_NA, stacks, slots, g_ECF, u_ECF = saved
  n, a = weights_NA.shape
  experts, capacity = slots.item_EC.shape
  weights_I = weights_NA.reshape(n * a)
  dx_ND = jnp.zeros_like(x_ND, jnp.float32)
  dw_I = jnp.zeros_like(weights_I, jnp.float32)
  d_stacks = Stacks(*(jnp.zeros_like(w, jnp.float32) for w in stacks))
  if capacity:
    token_EC = slots.item_EC // a
    weight_EC = jnp.where(slots.filled_EC, weights_I[slots.item_EC], 0)
    x_ECD, dy_ECD = _rows(x_ND, token_EC), _rows(dy_ND, token_EC)
    dh_ECF = jnp.einsum("ecd,efd->ecf", dy_ECD, stacks.down_EFD)
    dg_ECF, du_ECF, h_ECF, dw_EC = _activation_vjp(g_ECF, u_ECF, dh_ECF, weight_EC)
    d_stacks = Stacks(
      _stack_gradient("ecd,ecf->edf", x_ECD, dg_ECF),
      _stack_gradient("ecd,ecf->edf", x_ECD, du_ECF),
      _stack_gradient("ecf,ecd->efd", h_ECF, dy_ECD),
    )
    dx_ECD = jnp.einsum("ecf,edf->ecd", dg_ECF, stacks.gate_EDF)
    dx_ECD += jnp.einsum("ecf,edf->ecd", du_ECF, stacks.up_EDF)
    dx_ND = _combine(dx_ECD, slots, slots.slotted_NA.astype(jnp.float32))
    dw_NA = dw_EC.reshape(experts * capacity)[slots.slot_NA]
    dw_I = jnp.where(slots.slotted_NA, dw_NA, 0).reshape(n * a)
  overflow = _overflow(slots, n)

  def block(i: jax.Array, carry: tuple) -> tuple:
    dx_ND, dw_I, d_stacks = carry
    expert, item_M, filled_M = _block(overflow, i)
    weight_M = jnp.where(filled_M, weights_I[item_M], 0)
    gate_DF, up_DF, down_FD = (_expert(w, expert) for w in stacks)
    x_MD, dy_MD = _rows(x_ND, item_M // a), _rows(dy_ND, item_M // a)
    dg_MF, du_MF, h_MF, dw_M = _activation_vjp(
      x_MD @ gate_DF, x_MD @ up_DF, dy_MD @ down_FD.T, weight_M
    )
    d_expert = (x_MD.T @ dg_MF, x_MD.T @ du_MF, h_MF.T @ dy_MD)
    d_stacks = Stacks(*(w.at[expert].add(d) for w, d in zip(d_stacks, d_expert)))
    dx_MD = dg_MF @ gate_DF.T + du_MF @ up_DF.T
    dx_ND = dx_ND.at[item_M // a].add(dx_MD, mode="promise_in_bounds")
    dw_I = dw_I.at[item_M].add(jnp.where(filled_M, dw_M, 0), mode="promise_in_bounds")
    return dx_ND, dw_I, d_stacks

  dx_ND, dw_I, d_stacks = jax.lax.fori_loop(0, overflow.bound_E[-1], block, (dx_ND, dw_I, d_stacks))
  d_stacks = Stacks(*(d.astype(w.dtype) for d, w in zip(d_stacks, stacks)))
  return dx_ND.astype(x_ND.dtype), dw_I.reshape(n, a).astype(weights_NA.dtype), d_stacks, None


grouped_ffn.defvjp(_forward, _backward)


def _activation_vjp(
  g: jax.Array, u: jax.Array, dh: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Of weight * (silu(g) * u) @ down, given dh = dy @ down.T: dg, du, what meets dy, dweight."""
  sigmoid = jax.nn.sigmoid(g)
  silu = g * sigmoid
  h = silu * u
  d_weight = jnp.sum((dh * h).astype(jnp.float32), axis=-1)
  weight = weight[..., None].astype(g.dtype)
  dh = dh * weight
  return dh * u * (sigmoid + silu * (1 - sigmoid)), dh * silu, h * weight, d_weight


def _stack_gradient(axes: str, left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.einsum(axes, left, right, preferred_element_type=jnp.float32)


def _rows(x_ND: jax.Array, token: jax.Array) -> jax.Array:
  return x_ND.at[token].get(mode="promise_in_bounds")


def _expert(stack: jax.Array, expert: jax.Array) -> jax.Array:
  return jax.lax.dynamic_index_in_dim(stack, expert, 0, keepdims=False)


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
  rows = max(16, min(64, (capacity or tokens) // 4 // 8 * 8))
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
