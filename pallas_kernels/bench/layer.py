"""A training step of the linear layers of one layer of V2-Lite, in FP8 and in bfloat16.

Forward and backward with all that FP8 adds: what quantises activations, gradients and weights, and
the transposed copies. bfloat16 casts the float32 weights instead. Attention's projections and the
shared experts each have an input and an output gradient of their own, as what lies between them is
the same in both formats; the routed experts are whole, with gather, SwiGLU and sum.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.bench.cases import TRAINED, UNQUANTIZED, Case, Form, Operands
from pallas_kernels.bench.work import Work
from pallas_kernels.fp8.formats import TILE
from pallas_kernels.gemm import api as gemm
from pallas_kernels.gemm import shapes
from pallas_kernels.grouped import api as grouped
from pallas_kernels.grouped.layout import Layout, arrange, from_rows, masked, to_rows

Linear = Callable[[jax.Array, jax.Array], jax.Array]
Grouped = Callable[[jax.Array, jax.Array, Layout], jax.Array]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """A layer and its step.

  Attributes:
    tokens: of the step.
    dense: N x K of each matrix that all tokens meet.
    experts: G, that share the tokens' choices evenly.
    top_k: choices of a token.
    model: width D.
    width: hidden width F of an expert.
  """

  tokens: int
  dense: dict[str, tuple[int, int]]
  experts: int
  top_k: int
  model: int
  width: int

  @property
  def flops(self) -> int:
    """Of the products forward and backward: three of each."""
    dense = sum(N * K for N, K in self.dense.values())
    return 6 * self.tokens * (dense + self.top_k * 3 * self.model * self.width)


V2_LITE = Sizes(max(shapes.TOKENS), shapes.V2_LITE, experts=64, top_k=6, model=2048, width=1408)
SMALL = Sizes(max(shapes.SMALL_TOKENS), shapes.SMALL, experts=2, top_k=2, model=256, width=128)


def cases(small: bool) -> Iterator[Case]:
  """The step; its bytes are not counted."""
  sizes = SMALL if small else V2_LITE
  bf16 = Work(sizes.flops, 0, "bf16")
  loop = functools.partial(grouped.grouped_matmul_bf16, implementation="xla")
  others = tuple(
    Form(name, functools.partial(_step, _dot, form), bf16, UNQUANTIZED)
    for name, form in (("bfloat16, experts in a loop", loop), ("bfloat16, ragged_dot", _ragged))
  )
  name = "small" if small else "V2-Lite"
  shape = f"{name}: {sizes.tokens} tokens, {sizes.experts} experts, top {sizes.top_k}"
  make = functools.partial(_operands, sizes)
  work = Work(sizes.flops, 0, "fp8")
  yield Case("training step", shape, _fp8_step, make, work, TRAINED, others)


def _fp8_step(*operands: Any, implementation: str) -> Any:
  linear = functools.partial(gemm.linear, implementation=implementation)
  experts = functools.partial(grouped.grouped_linear, implementation=implementation)
  return _step(linear, experts, *operands)


def _step(linear: Linear, experts: Grouped, dense: dict, routed: tuple, layout: Layout) -> Any:
  """Results and gradients of every linear layer."""
  found = {}
  for name, (x_MK, w_NK, dy_MN) in dense.items():
    y_MN, pull = jax.vjp(linear, x_MK, w_NK)
    found[name] = y_MN, *pull(dy_MN)
  x_ND, *weights, dy_ND = routed
  y_ND, pull = jax.vjp(functools.partial(_experts, experts, layout), x_ND, *weights)
  return found | {"experts": (y_ND, *pull(dy_ND))}


def _experts(
  multiply: Grouped, layout: Layout, x_ND: jax.Array, in_GHD: jax.Array, out_GDF: jax.Array
) -> jax.Array:
  """The experts' sum [N, D]; H = 2F, gate and up."""
  gate_MF, up_MF = jnp.split(multiply(to_rows(x_ND, layout), in_GHD, layout), 2, axis=1)
  y_MD = multiply(jax.nn.silu(gate_MF) * up_MF, out_GDF, layout)
  y_NAD = from_rows(y_MD, layout).reshape(x_ND.shape[0], -1, x_ND.shape[1])
  return y_NAD.sum(axis=1)


def _dot(x_MK: jax.Array, w_NK: jax.Array) -> jax.Array:
  return jnp.dot(x_MK, w_NK.astype(jnp.bfloat16).T)


def _ragged(x_MK: jax.Array, w_GNK: jax.Array, layout: Layout) -> jax.Array:
  w_GKN = w_GNK.astype(jnp.bfloat16).swapaxes(1, 2)
  y_MN = jax.lax.ragged_dot(masked(x_MK, layout), w_GKN, jnp.diff(layout.edge_H) * TILE)
  return masked(y_MN, layout)


def _operands(sizes: Sizes, key: jax.Array) -> Operands:
  """Activations and gradients in bfloat16, weights in float32 and as small as trained ones."""
  normal = _Normal(key)
  N, D, F, G = sizes.tokens, sizes.model, sizes.width, sizes.experts
  dense = {
    name: (normal(N, inputs), normal.weight(outputs, inputs), normal(N, outputs))
    for name, (outputs, inputs) in sizes.dense.items()
  }
  routed = normal(N, D), normal.weight(G, 2 * F, D), normal.weight(G, D, F), normal(N, D)
  groups_R = jax.random.randint(normal.key(), (N * sizes.top_k,), 0, G)
  return {"own": (dense, routed, arrange(groups_R, G))}


class _Normal:
  """Random matrices, each from the next key."""

  def __init__(self, key: jax.Array):
    self._key = key

  def key(self) -> jax.Array:
    self._key, key = jax.random.split(self._key)
    return key

  def __call__(self, *shape: int) -> jax.Array:
    return jax.random.normal(self.key(), shape, jnp.bfloat16)

  def weight(self, *shape: int) -> jax.Array:
    return jax.random.normal(self.key(), shape) * shape[-1] ** -0.5
