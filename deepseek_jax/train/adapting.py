"""The state of a job that trains adapters (model/adapters.py) of the model in `init`.

All of the base is in the state, and donated from step to step with it, but only the adapters have
moments and only they are saved.
"""

import dataclasses

import jax
import optax

from deepseek_jax.model.adapters import LoRAConfig, adapt, base_of, draw_adapters, with_trained
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.seeds import random_key
from deepseek_jax.sharding import init_sharded, state_shardings
from deepseek_jax.train.base import keep_base
from deepseek_jax.train.checkpoint import Checkpointer
from deepseek_jax.train.loop import Position, begin
from deepseek_jax.train.metrics import MetricsLog
from deepseek_jax.train.start import load_matching
from deepseek_jax.train.state import TrainState, abstract_state, init_state, learnt
from deepseek_jax.types import Weights


def begin_adapting(
  model: Transformer,
  tx: optax.GradientTransformation,
  checkpointer: Checkpointer,
  log: MetricsLog,
  seed: int,
  init: str,
  lora: LoRAConfig,
) -> tuple[TrainState, Position]:
  """`begin_training` of a job that trains adapters; its base is noted in the run's directory."""
  first = first_adapted(model, tx, seed, init, lora)
  keep_base(log.path.parent, init, base_of(first.weights))
  kept = learnt(first)
  abstract = abstract_state(lambda: kept, model.mesh)
  state, position = begin(abstract, lambda: kept, checkpointer, log)
  weights = with_trained(first.weights, state.weights.params)
  return dataclasses.replace(state, weights=weights), position


def first_adapted(
  model: Transformer, tx: optax.GradientTransformation, seed: int, init: str, lora: LoRAConfig
) -> TrainState:
  """The state that adapters of the model `init` begin with; those of `seed`, see model/adapters."""
  base = load_matching(model.config, init, model.mesh, dtype=lora.base)
  where = None if model.mesh is None else state_shardings(model.mesh, base)
  base = jax.device_put(base, where)

  def fresh(base: Weights, key: jax.Array) -> TrainState:
    return learnt(init_state(adapt(base, draw_adapters(base, lora, key), lora.scale), tx))

  state = init_sharded(fresh, model.mesh, base, random_key(seed))
  return dataclasses.replace(state, weights=adapt(base, state.weights.params, lora.scale))
