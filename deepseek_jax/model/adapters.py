"""Adapters: weights of which only changes of low rank are trained (LoRA, 2106.09685).

Adapted weights hold a `LowRank` in place of every matrix that `lora.targets` names, and run, decode
and merge like any others. What is trained of them is a tree of its own, `trained`: a pair A, B for
each of these matrices. Everything else, the router's bias included, is the base and never moves.

Linear layers of attention, of dense and shared feed-forwards and of the MTP modules' blocks can be
adapted; routed experts, routers, embedding, head and an MTP module's joint cannot. Published
matrices that are several parameters here (MLA's q_b, kv_a and kv_b) have an A for each of them.
A is drawn as peft draws it, uniform within 1 / sqrt(I), B begins as zeros: the adapted model is at
first the base.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from deepseek_jax.config import ModelConfig, require
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.ops.low_rank import LowRank, sizes
from deepseek_jax.types import Params, Weights

ATTENTION, FEED_FORWARD = "attention", "feed_forward"
_SCOPES = {"attention": ATTENTION, "ffn": FEED_FORWARD, "shared": FEED_FORWARD}
_NEVER = ("norm", "bias", "router")


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
  """Which changes are trained, and how large they are: scale = alpha / rank."""

  rank: int = 16  # Y
  alpha: float = 32.0
  targets: str = f"{ATTENTION},{FEED_FORWARD}"  # these, or matrices by name: "q,v", "q_up,gate"
  base: str = "float32"  # or stored: FP8 and bfloat16 stay what they are in the base's files

  def __post_init__(self) -> None:
    require(self.rank > 0, f"lora.rank is {self.rank}; it must be positive.")
    require(
      0 < self.alpha < float("inf"),
      f"lora.alpha is {self.alpha}; it must be positive and finite.",
    )
    require(
      self.base in ("float32", "stored"),
      f"lora.base is {self.base!r}; use float32 or stored.",
    )

  @property
  def scale(self) -> float:
    """What a change is multiplied by."""
    return self.alpha / self.rank


def told(config: LoRAConfig | None) -> str:
  """What a page says is trained."""
  if config is None:
    return "all weights"
  return f"adapters of rank {config.rank} and alpha {config.alpha:g} on {config.targets}"


def check_adapters(
  config: LoRAConfig, model: ModelConfig, init: str, bias_speed: tuple[str, float]
) -> None:
  """ConfigError unless a job's model can be adapted so.

  There must be a base, `init`, that has every target, the rank must fit each, and the router's bias
  stand still: `bias_speed` is the field that moves it and its value.
  """
  require(bool(init), "config.lora adapts a trained model; name it, --config.init=MODEL.")
  selects = model.moe is not None and model.moe.selection_bias
  require(
    not selects or bias_speed[1] == 0,
    f"{bias_speed[0]} is {bias_speed[1]}; adapters leave their base as it is, its router's bias "
    "too: set it to 0.",
  )
  weights = jax.eval_shape(lambda: init_weights(Transformer(model), jax.random.key(0)))
  for path, leaf in _targets(weights.params, config):
    _, inputs, outputs = sizes(path[-1], leaf.shape)
    require(
      config.rank <= min(inputs, outputs),
      f"lora.rank is {config.rank}, but {'/'.join(path)} is a matrix of {inputs} x {outputs}; "
      f"lower it to {min(inputs, outputs)}, or name lora.targets without "
      f"{_short(path[-1])}.",
    )


def draw_adapters(weights: Weights, config: LoRAConfig, key: jax.Array) -> Params:
  """New adapters for weights of any dtype; jit-able."""
  drawn: Params = {}
  for number, (path, leaf) in enumerate(_targets(weights.params, config)):
    stack, inputs, outputs = sizes(path[-1], leaf.shape)
    bound = inputs**-0.5
    shape, own = (*stack, inputs, config.rank), jax.random.fold_in(key, number)
    place = drawn
    for name in path:
      place = place.setdefault(name, {})
    place["a_IY"] = jax.random.uniform(own, shape, jnp.float32, -bound, bound)
    place["b_YO"] = jnp.zeros((*stack, config.rank, outputs), jnp.float32)
  return drawn


def adapt(weights: Weights, adapters: Params, scale: float) -> Weights:
  """The weights with these adapters; those that they have already are replaced."""

  def put(params: Params, adapters: Params) -> Params:
    if "a_IY" in adapters:
      base = params.base if isinstance(params, LowRank) else params
      return LowRank(base, adapters["a_IY"], adapters["b_YO"], scale)
    return {n: put(p, adapters[n]) if n in adapters else p for n, p in params.items()}

  return Weights(put(weights.params, adapters), weights.router_bias_LE)


def is_adapted(params: Params) -> bool:
  """Whether there are adapters in it."""
  return next(_adapted(params), None) is not None


def trained(params: Params) -> Params:
  """What gradients and moments are of: all parameters, or the adapters where there are any."""
  if not is_adapted(params):
    return params

  def only(params: Params) -> Params:
    if isinstance(params, LowRank):
      return {"a_IY": params.a_IY, "b_YO": params.b_YO}
    return {n: only(p) for n, p in params.items() if is_adapted(p)}

  return only(params)


def with_trained(weights: Weights, moved: Params) -> Weights:
  """The weights with other values of `trained(weights.params)`."""
  first = next(_adapted(weights.params), None)
  if first is None:
    return Weights(moved, weights.router_bias_LE)
  return adapt(weights, moved, first.scale)


def merged(weights: Weights) -> Weights:
  """The same model as ordinary weights; jit-able."""
  return _without(weights, LowRank.merged)


def base_of(weights: Weights) -> Weights:
  """The model with its adapters off, in the very arrays of `weights`."""
  return _without(weights, lambda w: w.base)


def _without(weights: Weights, plain: Any) -> Weights:
  def replaced(leaf: Any) -> Any:
    return plain(leaf) if isinstance(leaf, LowRank) else leaf

  return jax.tree.map(replaced, weights, is_leaf=lambda x: isinstance(x, LowRank))


def _adapted(params: Params) -> Iterator[LowRank]:
  if isinstance(params, LowRank):
    yield params
  elif isinstance(params, dict):
    for inner in params.values():
      yield from _adapted(inner)


def _targets(params: Params, config: LoRAConfig) -> list[tuple[tuple[str, ...], Any]]:
  """Paths and leaves of the matrices that are adapted; ConfigError if a target is none."""
  found = [(path, leaf) for path, leaf in _leaves(params) if _group(path)]
  known = dict.fromkeys([_group(path) for path, _ in found] + [_short(p[-1]) for p, _ in found])
  wanted = [target.strip() for target in config.targets.split(",")]
  for target in wanted:
    require(
      target in known,
      f"lora.targets has {target!r}, which is none of this model's linear layers that can be "
      f"adapted; use some of {', '.join(map(str, known))}, with commas between.",
    )
  return [(p, leaf) for p, leaf in found if _group(p) in wanted or _short(p[-1]) in wanted]


def _leaves(params: Params, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
  """Parameters by their paths, in an order that is always the same."""
  if not isinstance(params, dict):
    yield path, params
    return
  for name in sorted(params):
    yield from _leaves(params[name], (*path, name))


def _group(path: tuple[str, ...]) -> str | None:
  """Which linear layers a parameter is of; None if it cannot be adapted."""
  name = path[-1]
  experts = name.rsplit("_", 1)[-1].startswith("E")
  if len(path) < 2 or experts or any(word in name for word in _NEVER):
    return None
  return _SCOPES.get(path[-2])


def _short(name: str) -> str:
  """A parameter's name without its axes."""
  return name.rsplit("_", 1)[0]
