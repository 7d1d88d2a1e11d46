"""Dispatch: the routed experts of a layer, applied to the tokens that chose them.

One interface, so that expert exchange and kernels can stand behind it. Four implementations, equal
up to rounding:

  dense     every expert for every token, as three matmuls of width E * F; best where that is small
  capacity  tokens sorted into C slots per expert, overflow in a second exact pass; its cost does
            not grow with E
  choices   one choice after another, for a few tokens being decoded: reads the chosen experts only
  grouped   tokens sorted into rows padded to 128 per expert, grouped matmuls of `pallas_kernels`:
            in FP8 where the precision says so, else in bfloat16; for GPUs and TPUs

No token is ever dropped.
"""

from typing import Any

import jax
import jax.numpy as jnp

from deepseek_jax.config import require
from deepseek_jax.ops import fp8_experts
from deepseek_jax.ops.feed_forward import down
from deepseek_jax.ops.grouped import Stacks, grouped_ffn, one_expert
from deepseek_jax.ops.linear import linear
from deepseek_jax.ops.oriented import Oriented
from deepseek_jax.ops.precision import PLAIN, Precision
from deepseek_jax.ops.slots import assign
from pallas_kernels.grouped.api import grouped_matmul_bf16
from pallas_kernels.grouped.layout import Layout, arrange, combined, from_places, to_rows
from pallas_kernels.routing.plan import ALIGNMENT, plan
from pallas_kernels.routing.ref import Routing as Routed

_FEW_SLOTS = 5  # of an expert in a decoding step, whose time grows with them


def expert_ffn(
  x_ND: jax.Array,
  weights_NA: jax.Array,
  experts_NA: jax.Array,
  gate_EDF: jax.Array | Oriented,
  up_EDF: jax.Array | Oriented,
  down_EFD: jax.Array | Oriented,
  *,
  implementation: str = "auto",
  precision: Precision = PLAIN,
  first_expert: int | jax.Array = 0,
  capacity: int | None = None,
  routed: Routed | None = None,
) -> jax.Array:
  """The sum over a token's choices of weight * down(silu(gate x) * up x) (2412.19437, eq. 12).

  The stacks hold experts first_expert .. first_expert + E - 1; choices outside that range
  contribute nothing, so results over a partition of the experts add up to the whole.
  Differentiable in all but `experts_NA`. A token's choices must differ from one another. Inside
  shard_map it wants check_vma=False, as its loops start from constants.

  Args:
    x_ND: tokens; their dtype is that of the matmuls and of the result.
    weights_NA: routing weights.
    experts_NA: int32, chosen experts.
    gate_EDF, up_EDF, down_EFD: the experts' matrices; oriented they have no gradient, and want
      "capacity" or "choices".
    implementation: auto, dense, capacity, choices or grouped. "auto" takes "grouped" where kernels
      are on and there is something for them: FP8 or bfloat16, and D and F multiples of 128.
    precision: of the matmuls, see ops/precision.py; any but "plain" takes "capacity" for "choices"
      and whole matrices. Where tiles hold columns of several experts, which they do if F is no
      multiple of 128, "dense" and "capacity" round differently.
    first_expert: of the stacks; may be traced.
    capacity: slots of an expert in the fast pass of "capacity"; None chooses. Speed only.
    routed: what routing said of these tokens, where all experts are here; spares "grouped" a sort.
  """
  experts, tokens, top_k = gate_EDF.shape[0], *experts_NA.shape
  local_NA = experts_NA - first_expert
  stacks = Stacks(*(precision.operand(w, x_ND.dtype) for w in (gate_EDF, up_EDF, down_EFD)))
  if implementation == "auto":
    implementation = choose(tokens, top_k, *gate_EDF.shape)
    few = implementation == "choices" and precision.plain
    if precision.kernels != "off" and not few and not _why_not_grouped(x_ND, stacks, precision):
      implementation = "grouped"
  if implementation == "dense":
    return _dense(x_ND, weights_NA, local_NA, stacks, precision)
  if implementation == "choices" and not precision.plain:
    implementation = "capacity"
  if implementation == "choices":
    return _choices(x_ND, weights_NA, local_NA, stacks)
  if implementation == "grouped":
    reason = _why_not_grouped(x_ND, stacks, precision)
    require(not reason, f"compute.dispatch is 'grouped', which {reason}.")
    if routed is None:
      layout = arrange(local_NA.reshape(-1), experts)
    else:
      planned = plan(routed)
      layout = from_places(planned.row_M, planned.aligned_E // ALIGNMENT)
    return _grouped(x_ND, weights_NA, stacks, layout, precision)
  require(
    implementation == "capacity",
    f"compute.dispatch is {implementation!r}; use auto, dense, capacity, choices or grouped.",
  )
  if capacity is None:
    capacity = default_capacity(tokens, top_k, experts)
  if isinstance(gate_EDF, Oriented) and 0 < capacity <= 16:
    capacity = _FEW_SLOTS
  return grouped_ffn(x_ND, weights_NA, stacks, assign(local_NA, experts, capacity), precision)


def default_capacity(tokens: int, top_k: int, experts: int) -> int:
  """Slots per expert; none where most experts would be idle.

  The mean load and its square root, by which even loads would differ by chance: slots beyond are
  mostly empty and cost as much as full ones, while what overflows costs little more than in a slot.
  `experts` are those the router chooses among, on all devices.
  """
  mean = tokens * top_k / experts
  return 0 if mean < 2 else -(-int(mean + mean**0.5) // 16) * 16


def choose(tokens: int, top_k: int, experts: int, d_model: int, width: int) -> str:
  """The faster implementation for these shapes, as measured on two CPU cores."""
  if experts * width <= 512 and experts <= 8 * top_k:
    return "dense"
  return "choices" if 2 * tokens * top_k <= experts else "capacity"


def _dense(
  x_ND: jax.Array,
  weights_NA: jax.Array,
  experts_NA: jax.Array,
  stacks: Stacks,
  precision: Precision,
) -> jax.Array:
  """Every expert for every token; the weight of a choice not made is zero."""
  chosen_NAE = experts_NA[:, :, None] == jnp.arange(stacks.gate_EDF.shape[0])
  weights_NE = jnp.sum(jnp.where(chosen_NAE, weights_NA[:, :, None], 0), axis=1)
  assert not isinstance(stacks.gate_EDF, Oriented) and not isinstance(stacks.up_EDF, Oriented)
  assert not isinstance(stacks.down_EFD, Oriented)
  N, (E, D, F) = len(x_ND), stacks.gate_EDF.shape
  weights_NE1 = weights_NE[:, :, None].astype(x_ND.dtype)
  down_MD = stacks.down_EFD.reshape(E * F, D)
  if N < D // 8 and precision.plain:  # fewer products than laying the experts side by side
    x_END = jnp.broadcast_to(x_ND, (E, N, D))
    h_ENF = jax.nn.silu(x_END @ stacks.gate_EDF) * (x_END @ stacks.up_EDF)
    h_NEF = jnp.swapaxes(h_ENF, 0, 1) * weights_NE1
    return linear(h_NEF.reshape(N, E * F), down_MD)
  gate_DM, up_DM = (
    jnp.swapaxes(w, 0, 1).reshape(D, E * F) for w in (stacks.gate_EDF, stacks.up_EDF)
  )  # M: E * F
  g_NM, u_NM = linear(x_ND, gate_DM, precision), linear(x_ND, up_DM, precision)
  if not precision.plain:
    u_NM = (u_NM.reshape(N, E, F) * weights_NE1).reshape(N, E * F)
    return down(g_NM, u_NM, down_MD, precision)
  h_NEF = (jax.nn.silu(g_NM) * u_NM).reshape(N, E, F) * weights_NE1
  return linear(h_NEF.reshape(N, E * F), down_MD)


def _choices(
  x_ND: jax.Array, weights_NA: jax.Array, experts_NA: jax.Array, stacks: Stacks
) -> jax.Array:
  """A loop over all tokens' choices; each reads one expert."""
  tokens, top_k = experts_NA.shape
  experts = stacks.gate_EDF.shape[0]
  weights_NA = jnp.where((experts_NA >= 0) & (experts_NA < experts), weights_NA, 0)
  experts_NA = jnp.clip(experts_NA, 0, experts - 1)

  def add(i: jax.Array, y_ND: jax.Array) -> jax.Array:
    token, choice = i // top_k, i % top_k
    x_1D = jax.lax.dynamic_slice_in_dim(x_ND, token, 1)
    o_1D = one_expert(x_1D, stacks, experts_NA[token, choice]) * weights_NA[token, choice]
    y_1D = jax.lax.dynamic_slice_in_dim(y_ND, token, 1) + o_1D
    return jax.lax.dynamic_update_slice_in_dim(y_ND, y_1D, token, 0)

  return jax.lax.fori_loop(0, tokens * top_k, add, jnp.zeros_like(x_ND))


def _why_not_grouped(x_ND: jax.Array, stacks: Stacks, precision: Precision) -> str:
  """Why these operands are nothing for grouped kernels, or nothing."""
  _, D, F = stacks.gate_EDF.shape
  if any(isinstance(w, Oriented) for w in stacks):
    return "wants matrices as they are trained"
  if D % 128 or F % 128:
    return f"wants widths that are multiples of 128, and they are {D} and {F}"
  if not (precision.fp8 or x_ND.dtype == jnp.bfloat16):
    return f"multiplies FP8 or bfloat16, and here {x_ND.dtype}"
  return ""


def _grouped(
  x_ND: jax.Array, weights_NA: jax.Array, stacks: Stacks, layout: Layout, precision: Precision
) -> jax.Array:
  """The experts on their own rows."""
  if precision.fp8:
    gate_EDF, up_EDF, down_EFD = stacks
    return fp8_experts.experts(precision, x_ND, weights_NA, (gate_EDF, up_EDF, down_EFD), layout)

  def product(x_MK: jax.Array, w_EKN: Any) -> jax.Array:
    w_ENK = jnp.swapaxes(w_EKN, 1, 2)
    return grouped_matmul_bf16(x_MK, w_ENK, layout, implementation=precision.implementation)

  x_MD = to_rows(x_ND, layout)
  h_MF = jax.nn.silu(product(x_MD, stacks.gate_EDF)) * product(x_MD, stacks.up_EDF)
  return combined(product(h_MF, stacks.down_EFD), weights_NA, layout).astype(x_ND.dtype)
