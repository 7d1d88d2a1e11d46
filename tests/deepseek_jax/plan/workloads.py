"""Workloads that the planner's tests share."""

import dataclasses

from deepseek_jax.config import ComputeConfig
from deepseek_jax.plan.workload import Sampling, Workload
from deepseek_jax.presets import preset
from deepseek_jax.sharding import MeshConfig
from deepseek_jax.train.optimizer import OptimizerConfig

MINI = Workload(
  "mini",
  "training",
  preset("v3_mini"),
  MeshConfig(fsdp=2, expert=4),
  ComputeConfig(dtype="bfloat16", remat="full"),
  OptimizerConfig(moment_dtype="bfloat16"),
  rows=16,
  length=128,
)
SAMPLING = Sampling(
  samples=64, prompt=16, mean=50, longest=112, updates=2, epochs=1, scorings=1, rows=32
)


def v3(**changes) -> Workload:
  """V3 as it is pre-trained in bfloat16 on 512 chips, with changes."""
  whole = dataclasses.replace(
    MINI, name="v3", model=preset("v3_671b"), mesh=MeshConfig(fsdp=8, expert=64), rows=2048,
    length=4096, loss_chunk=16_384,
  )  # fmt: skip
  return dataclasses.replace(whole, **changes)
