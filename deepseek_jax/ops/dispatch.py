"""Dispatch: the routed experts of a layer, applied to the tokens that chose them.

One interface, so that expert exchange and kernels can stand behind it. Two implementations, equal
up to rounding:

  dense     every expert for every token, as three matmuls of width E * F; best where that is small
  capacity  tokens sorted into C slots per expert, overflow in a second exact pass; its cost does
            not grow with E

No token is ever dropped.
"""

import jax
import jax.numpy as jnp

from deepseek_jax.config import require
from deepseek_jax.ops.grouped import Stacks, grouped_ffn
from deepseek_jax.ops.linear import linear
from deepseek_jax.ops.slots import assign


def expert_ffn(
  x_ND: jax.Array,
  weights_NA: jax.Array,
  experts_NA: jax.Array,
  gate_EDF: jax.Array,
  up_EDF: jax.Array,
  down_EFD: jax.Array,
  *,
  implementation: str = "auto",
  first_expert: int | jax.Array = 0,
  capacity: int | None = None,
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
    implementation: auto, dense or capacity.
    first_expert: of the stacks; may be traced.
    capacity: slots of an expert in the fast pass of "capacity"; None chooses. Speed only.
  """
  experts, tokens, top_k = gate_EDF.shape[0], *experts_NA.shape
  local_NA = experts_NA - first_expert
  stacks = Stacks(*(w.astype(x_ND.dtype) for w in (gate_EDF, up_EDF, down_EFD)))
  if implementation == "auto":
    implementation = choose(tokens, top_k, *gate_EDF.shape)
  if implementation == "dense":
    return _dense(x_ND, weights_NA, local_NA, stacks)
  require(
    implementation == "capacity",
    f"compute.dispatch is {implementation!r}; use auto, dense or capacity.",
  )
  if capacity is None:
    capacity = default_capacity(tokens, top_k, experts)
  return grouped_ffn(x_ND, weights_NA, stacks, assign(local_NA, experts, capacity))


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
  return "dense" if experts * width <= 512 and experts <= 8 * top_k else "capacity"


def _dense(
  x_ND: jax.Array, weights_NA: jax.Array, experts_NA: jax.Array, stacks: Stacks
) -> jax.Array:
  """Every expert for every token; the weight of a choice not made is zero."""
  chosen_NAE = experts_NA[:, :, None] == jnp.arange(stacks.gate_EDF.shape[0])
  weights_NE = jnp.sum(jnp.where(chosen_NAE, weights_NA[:, :, None], 0), axis=1)
  E, D, F = stacks.gate_EDF.shape
  gate_DM, up_DM = (jnp.swapaxes(w, 0, 1).reshape(D, E * F) for w in stacks[:2])  # M: E * F
  h_NEF = (jax.nn.silu(linear(x_ND, gate_DM)) * linear(x_ND, up_DM)).reshape(-1, E, F)
  h_NEF = h_NEF * weights_NE[:, :, None].astype(x_ND.dtype)
  return linear(h_NEF.reshape(-1, E * F), stacks.down_EFD.reshape(E * F, D))
