"""Weights as decoding steps read them: layers apart, in the compute dtype, experts in strips, and
MLA's up-projections with their heads first.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from deepseek_jax.config import MoEConfig
from deepseek_jax.model.layered import is_layered, unstack
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.ops.fp8 import FP8Blocks
from deepseek_jax.ops.strips import can_cut, cut
from deepseek_jax.types import Params, Weights

_KEPT = ("norm", "router", "bias")  # computed in float32 whatever the compute dtype
_UP = {"k_up_CHK": "k_up_HCK", "v_up_CHU": "v_up_HCU"}
_STACKS = ("gate_EDF", "up_EDF", "down_EFD")


@functools.partial(jax.jit, static_argnames=("model", "rows"))
def prepare(model: Transformer, weights: Weights, rows: int) -> Weights:
  """The weights for decoding steps of up to `rows` rows.

  A second copy of the weights, which saves a step from making one every time. FP8 matrices stay
  FP8 but on a CPU, which has no such arithmetic.
  """
  if not is_layered(weights):
    weights = unstack(model.config, weights)
  on_cpu = jax.default_backend() == "cpu"
  whole = model.mesh is None and model.compute.precision == "plain"  # tiles want no strips
  strips = on_cpu and whole and _strips_pay(model.config.moe, rows)
  dtype = jnp.dtype(model.compute.dtype)

  def convert(path: tuple[Any, ...], leaf: Any) -> Any:
    name = path[-1].key
    if not any(word in name for word in _KEPT) and (on_cpu or not isinstance(leaf, FP8Blocks)):
      leaf = leaf.astype(dtype)
    return cut(leaf) if strips and name in _STACKS and can_cut(leaf.shape) else leaf

  params = jax.tree_util.tree_map_with_path(
    convert, weights.params, is_leaf=lambda x: isinstance(x, FP8Blocks)
  )
  return Weights(_heads_first(params), weights.router_bias_LE)


def _heads_first(params: Params) -> Params:
  """The parameters with `k_up_CHK` and `v_up_CHU` as absorbed attention reads them; FP8 stays."""
  if not isinstance(params, dict):
    return params
  held: Params = {}
  for name, leaf in params.items():
    if name in _UP and not isinstance(leaf, FP8Blocks):
      held[_UP[name]] = jnp.swapaxes(leaf, 0, 1)
    else:
      held[name] = _heads_first(leaf)
  return held


def _strips_pay(moe: MoEConfig | None, rows: int) -> bool:
  """Whether an expert meets two to a few tokens of a step."""
  return moe is not None and moe.experts / 2 < rows * moe.top_k <= 3 * moe.experts
