"""The state of a training run, and the one way a gradient changes it.

Only `weights.params` has gradients, and where the weights are adapted (model/adapters.py) only the
adapters. `weights.router_bias_LE` moves by rule (2412.19437, section 2.1.2; 2408.15664): after each
step the bias of every expert rises by the bias speed if it had less than the mean load of its layer
over the whole global batch, and falls if it had more.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from deepseek_jax.config import ModelConfig
from deepseek_jax.model.adapters import trained, with_trained
from deepseek_jax.ops import routing
from deepseek_jax.sharding import state_shardings
from deepseek_jax.types import Params, Weights

Metrics = dict[str, jax.Array]  # float32 scalars


@flax.struct.dataclass
class TrainState:
  """All arrays that a run carries from one step to the next, and that a checkpoint holds."""

  weights: Weights  # float32 master weights; the base of adapters may be kept smaller
  opt_state: Any
  step: jax.Array  # int32: updates done
  ema: Weights | None = None  # moving average of the weights
  reference: Weights | None = None  # what KL is measured against in reinforcement learning


def init_state(
  weights: Weights, tx: optax.GradientTransformation, ema: bool = False, reference: bool = False
) -> TrainState:
  """A fresh optimiser over `weights`, which begin the average and the reference too; jit-able."""
  step = jnp.zeros([], jnp.int32)
  copies = [jax.tree.map(jnp.copy, weights) if kept else None for kept in (ema, reference)]
  return TrainState(weights, tx.init(trained(weights.params)), step, *copies)


def abstract_state(
  create: Callable[[], TrainState], mesh: jax.sharding.Mesh | None = None
) -> TrainState:
  """Shapes, dtypes and shardings of the state that `create` would make; nothing is computed."""
  shapes = jax.eval_shape(create)
  if mesh is None:
    alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: alone, shapes)
  else:
    shardings = state_shardings(mesh, shapes)
  return jax.tree.map(
    lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
  )


def learnt(state: TrainState) -> TrainState:
  """The state with the adapters alone for weights that have some: what a checkpoint holds."""
  weights = state.weights
  return dataclasses.replace(
    state, weights=Weights(trained(weights.params), weights.router_bias_LE)
  )


def selects_by_bias(config: ModelConfig) -> bool:
  """Whether the routers have a bias to move: V3 does; V2 and dense models do not."""
  return config.moe is not None and config.moe.selection_bias and config.router_rows > 0


def apply_gradients(
  state: TrainState,
  grads: Params,
  load_LE: jax.Array | None,
  tx: optax.GradientTransformation,
  learning_rate: jax.typing.ArrayLike,
  bias_speed: jax.typing.ArrayLike = 0.0,
  ema_decay: float | None = None,
) -> tuple[TrainState, Metrics]:
  """One update of everything; every training step of the project ends here.

  `load_LE` is None where `selects_by_bias` is false. Metrics: grad_norm, before clipping, and
  max_violation of the loads, averaged over layers, if there are any.
  """
  params = trained(state.weights.params)
  direction, opt_state = tx.update(grads, state.opt_state, params)
  params = jax.tree.map(lambda p, d: (p - learning_rate * d).astype(p.dtype), params, direction)
  metrics = {"grad_norm": optax.global_norm(grads)}
  bias_LE = state.weights.router_bias_LE
  if load_LE is not None:
    bias_LE = routing.bias_update(bias_LE, load_LE, bias_speed)
    metrics["max_violation"] = jnp.mean(routing.max_violation(load_LE))
  weights = dataclasses.replace(with_trained(state.weights, params), router_bias_LE=bias_LE)
  ema = state.ema
  if ema is not None:
    if ema_decay is None:
      raise ValueError("The state has a moving average, but no ema_decay was given.")
    ema = jax.tree.map(lambda a, w: ema_decay * a + (1 - ema_decay) * w, ema, weights)
  state = dataclasses.replace(
    state, weights=weights, opt_state=opt_state, step=state.step + 1, ema=ema
  )
  return state, metrics


def compile_step(step: Callable[..., Any], mesh: jax.sharding.Mesh | None) -> Callable[..., Any]:
  """Jits step(state, ...) -> (state, metrics) with the state donated.

  On a mesh the new state is pinned to the shardings of the old one and metrics are replicated.
  """

  def pinned(state: TrainState, *args: Any) -> tuple[TrainState, Metrics]:
    state, metrics = step(state, *args)
    if mesh is None:
      return state, metrics
    state = jax.lax.with_sharding_constraint(state, state_shardings(mesh, state))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return state, jax.lax.with_sharding_constraint(metrics, everywhere)

  return jax.jit(pinned, donate_argnums=0)
