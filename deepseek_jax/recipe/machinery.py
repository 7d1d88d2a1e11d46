"""One architecture with everything compiled for it, shared by all stages that train it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from deepseek_jax.config import ModelConfig
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.recipe.config import R1Config
from deepseek_jax.seeds import random_key
from deepseek_jax.sharding import init_sharded, make_mesh, state_shardings
from deepseek_jax.train import grpo, pretrain
from deepseek_jax.train.optimizer import make_optimizer
from deepseek_jax.train.state import TrainState, abstract_state, init_state
from deepseek_jax.types import Weights


class Machinery:
  """Model, optimiser and engine, and the compiled steps: of text, and of reinforcement."""

  def __init__(self, model_config: ModelConfig, config: R1Config):
    self.mesh = make_mesh(config.mesh) if config.mesh.devices > 1 else None
    self.model = Transformer(model_config, config.compute, self.mesh)
    self.tx = make_optimizer(config.optimizer)
    self.engine = SlotEngine(self.model, config.engine_batch)
    self.text_step = pretrain.make_step(self.model, self.tx)
    self.policy_step = grpo.make_step(self.model, self.tx, grpo.GRPOConfig())
    self.score = grpo.make_scorer(self.model, grpo.GRPOConfig())
    # Kept, since a function made anew for every stage is compiled anew.
    kinds = (False, True)
    self._first = {kind: functools.partial(self._state, reference=kind) for kind in kinds}
    self._random = {kind: functools.partial(self._draw, reference=kind) for kind in kinds}

  def fresh(self, seed: int, weights: Weights | None, reference: bool) -> TrainState:
    """A state to begin a stage with, created where it will lie.

    Random weights or a copy of those given; a fresh optimiser; with `reference`, the same weights
    as the policy that KL is measured against.
    """
    if weights is None:
      return init_sharded(self._random[reference], self.mesh, random_key(seed))
    return init_sharded(self._first[reference], self.mesh, self.place(weights))

  def abstract(self, reference: bool) -> TrainState:
    """The shapes and shardings of `fresh`, which a checkpoint is read to."""
    return abstract_state(lambda: self._draw(jax.random.key(0), reference), self.mesh)

  def place(self, weights: Weights) -> Weights:
    """Weights on the device or the mesh."""
    if self.mesh is None:
      return jax.device_put(weights)
    return jax.device_put(weights, state_shardings(self.mesh, weights))

  def _draw(self, key: jax.Array, reference: bool) -> TrainState:
    return self._state(init_weights(self.model, key), reference)

  def _state(self, weights: Weights, reference: bool) -> TrainState:
    state = init_state(weights, self.tx)
    copy = jax.tree.map(jnp.copy, weights) if reference else None
    return dataclasses.replace(state, reference=copy)
