"""Weights as decoding steps read them: layers apart, in the compute dtype, matrices with their
outputs first on a CPU, MLA's up-projections with their heads first, and adapters merged.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from deepseek_jax.model.adapters import merged
from deepseek_jax.model.layered import is_layered, unstack
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.ops.dispatch import choose
from deepseek_jax.ops.fp8 import FP8Blocks
from deepseek_jax.ops.oriented import Oriented, orient
from deepseek_jax.types import Params, Weights

_KEPT = ("norm", "router", "bias")  # computed in float32 whatever the compute dtype
_UP = {"k_up_CHK": "k_up_HCK", "v_up_CHU": "v_up_HCU"}


def prepare(model: Transformer, weights: Weights) -> Weights:
  """The weights for decoding steps.

  A second copy of the weights, which saves a step from making one every time. FP8 matrices stay
  FP8 but on a CPU, which has no such arithmetic.
  """
  oriented = jax.default_backend() == "cpu" and model.mesh is None
  oriented &= model.compute.precision == "plain"  # tiles want matrices as they are trained
  prepared = _converted(model, weights, oriented)
  if oriented and model.config.tied:  # the very array, which has its outputs first
    prepared.params["head_DV"] = Oriented(prepared.params["embed_VD"])
  return prepared


@functools.partial(jax.jit, static_argnames=("model", "oriented"))
def _converted(model: Transformer, weights: Weights, oriented: bool) -> Weights:
  weights = merged(weights)
  if not is_layered(weights):
    weights = unstack(model.config, weights)
  on_cpu = jax.default_backend() == "cpu"
  dtype = jnp.dtype(model.compute.dtype)
  as_trained = (*_UP, "embed_VD", *(() if _stacks_turn(model) else ("EDF", "EFD")))

  def convert(path: tuple[Any, ...], leaf: Any) -> Any:
    name = path[-1].key
    if any(word in name for word in _KEPT):
      return leaf
    if on_cpu or not isinstance(leaf, FP8Blocks):
      leaf = leaf.astype(dtype)
    return orient(name, leaf) if oriented and not name.endswith(as_trained) else leaf

  params = jax.tree_util.tree_map_with_path(
    convert, weights.params, is_leaf=lambda x: isinstance(x, FP8Blocks)
  )
  return Weights(_heads_first(params), weights.router_bias_LE)


def _stacks_turn(model: Transformer) -> bool:
  """Whether experts may be oriented, which "dense" dispatch has no form for."""
  moe, dispatch = model.config.moe, model.compute.dispatch
  if moe is None or dispatch not in ("auto", "capacity", "choices"):
    return False
  few = choose(1, moe.top_k, moe.experts, model.config.d_model, moe.expert_ff)
  return dispatch != "auto" or few != "dense"


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
