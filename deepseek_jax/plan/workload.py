"""What is planned: a model, a mesh, and what one step of its training computes."""

import dataclasses
import functools

import jax

from deepseek_jax.config import ComputeConfig, ModelConfig, require
from deepseek_jax.model.adapters import LoRAConfig, adapt, draw_adapters
from deepseek_jax.plan.flops import abstract_weights
from deepseek_jax.plan.placement import Placed, held, placed
from deepseek_jax.sharding import MeshConfig
from deepseek_jax.train.optimizer import OptimizerConfig, make_optimizer
from deepseek_jax.train.state import TrainState, init_state
from deepseek_jax.types import Weights


@dataclasses.dataclass(frozen=True)
class Sampling:
  """The other phases of a step of reinforcement."""

  samples: int  # of an iteration
  prompt: int  # tokens
  mean: int  # sampled tokens of a sample
  longest: int  # of the longest
  updates: int  # of an iteration, all epochs
  epochs: int
  scorings: int  # forward passes over every token, besides those of updates
  rows: int  # sampled at a time

  def __post_init__(self) -> None:
    require(
      0 < self.mean <= self.longest,
      f"--sampled is {self.mean}; give 1 to {self.longest}, which is the longest sample's.",
    )


@dataclasses.dataclass(frozen=True)
class Workload:
  """One training step: `micro_batches` of `rows` rows of `length` tokens over the whole mesh."""

  name: str
  kind: str  # pre-training, fine-tuning, reinforcement, ...: a word for a table
  model: ModelConfig
  mesh: MeshConfig = MeshConfig()
  compute: ComputeConfig = ComputeConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  rows: int = 1
  length: int = 4096
  micro_batches: int = 1
  loss_chunk: int = 1024
  reference: bool = False
  lora: LoRAConfig | None = None
  sampling: Sampling | None = None

  @property
  def tokens(self) -> int:
    """Of a step."""
    return self.rows * self.length * self.micro_batches

  @property
  def item(self) -> int:
    """Bytes of a number of the compute dtype."""
    return {"float32": 4, "bfloat16": 2}[self.compute.dtype]

  @property
  def state(self) -> TrainState:
    """Shapes and dtypes of all that a run carries from step to step."""
    tx, average = make_optimizer(self.optimizer), self.optimizer.ema_decay is not None
    weights = _weights(self.model, self.lora)
    return jax.eval_shape(lambda w: init_state(w, tx, average, self.reference), weights)

  @property
  def arrays(self) -> tuple[Placed, ...]:
    """The model's parameters on the mesh."""
    return _arrays(self.model, self.lora, self.mesh)

  @property
  def kept(self) -> dict[str, float]:
    """Bytes on each device from step to step by kind, and of the parameters that are trained.

    Moments and copies of the weights lie where these do (`state_shardings`).
    """
    weights = sum(array.shard * array.item for array in self.arrays) + _bias(self.model, self.mesh)
    moving = sum(array.shard for array in self.arrays if self.lora is None or array.adapter)
    item = {"float32": 4, "bfloat16": 2}[self.optimizer.moment_dtype]
    sizes = {"parameters": weights, "moments": 2 * item * moving, "trained": 4 * moving}
    sizes["reference"] = weights * self.reference
    sizes["average"] = weights * (self.optimizer.ema_decay is not None)
    return {kind: float(size) for kind, size in sizes.items() if size}


# Placed once for each mesh: a search asks again and again.
@functools.lru_cache(maxsize=1024)
def _arrays(model: ModelConfig, lora: LoRAConfig | None, mesh: MeshConfig) -> tuple[Placed, ...]:
  return tuple(placed(mesh, _weights(model, lora).params))


@functools.lru_cache(maxsize=1024)
def _bias(model: ModelConfig, mesh: MeshConfig) -> int:
  return held(mesh, {"router_bias_LE": abstract_weights(model).router_bias_LE})


@functools.lru_cache(maxsize=8)
def _weights(model: ModelConfig, lora: LoRAConfig | None) -> Weights:
  weights = abstract_weights(model)
  if lora is None:
    return weights
  scale = lora.scale

  def adapted(weights: Weights) -> Weights:
    return adapt(weights, draw_adapters(weights, lora, jax.random.key(0)), scale)

  return jax.eval_shape(adapted, weights)
