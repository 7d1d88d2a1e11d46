"""The TPU's own compiler asked what a training step takes, on a machine without one.

It needs libtpu (`pip install -e '.[plan]'`), and minutes where a program fits. What it says is
memory of a device: arguments, which are the state and the batch, and temporaries, of which what
counts is the most that is there at a time; and which collectives are in the program.
"""

import dataclasses
import importlib.util
import os
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from deepseek_jax.config import ConfigError, require
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.plan.collectives import Collective, collectives
from deepseek_jax.plan.estimate import check_mesh
from deepseek_jax.plan.topology import Topology
from deepseek_jax.plan.workload import Workload
from deepseek_jax.sharding import make_mesh, state_shardings
from deepseek_jax.train import grpo, pretrain
from deepseek_jax.train.optimizer import make_optimizer
from deepseek_jax.train.policy import PolicyKnobs
from deepseek_jax.types import Batch, RolloutBatch

_ENVIRONMENT = {  # of a process that has no TPU and asks nobody about one
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5p-8",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler says of one device."""

  arguments: float  # bytes
  temporaries: float  # bytes, at the worst moment
  fits: bool
  seconds: float  # to lower and compile
  collectives: tuple[Collective, ...]


def compile_step(workload: Workload, topology: Topology) -> Compiled:
  """Compiles a workload's training step for the topology.

  Raises:
    ConfigError: libtpu is not installed, or the topology is none of TPUs.
  """
  require(
    topology.device.torus > 0,
    f"--compile asks the TPU's compiler, and {topology.name} is none of TPUs; leave it out.",
  )
  require(
    importlib.util.find_spec("libtpu") is not None,
    "--compile needs the TPU's compiler, which is not installed; pip install -e '.[plan]'.",
  )
  check_mesh(workload, topology)
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  start = time.monotonic()
  lowered = lower_step(workload, _devices(topology), "tpu")
  try:
    program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    arguments, temporaries = _told(str(error))
    return Compiled(arguments, temporaries, False, time.monotonic() - start, ())
  memory = program.memory_analysis()
  return Compiled(
    arguments=float(memory.argument_size_in_bytes),
    # Not temp_size_in_bytes, which adds up more than is there at once: a step of 107 GB by that is
    # compiled for a chip of 96.
    temporaries=float(memory.peak_memory_in_bytes - memory.argument_size_in_bytes),
    fits=True,
    seconds=time.monotonic() - start,
    collectives=tuple(collectives(program.as_text(), topology.devices)),
  )


def _devices(topology: Topology) -> list[jax.Device]:
  name = f"{topology.device.name}:{'x'.join(map(str, topology.sides))}"
  try:
    found = topologies.get_topology_desc(platform="tpu", topology_name=name)
  except (RuntimeError, ValueError) as error:
    raise ConfigError(f"{name} is no slice that libtpu knows ({error}); give another.") from error
  return list(found.devices)


def lower_step(workload: Workload, devices: list[jax.Device], platform: str) -> Any:
  """The training step of the workload, lowered for these devices."""
  mesh = make_mesh(workload.mesh, devices)
  model = Transformer(workload.model, workload.compute, mesh)
  tx = make_optimizer(workload.optimizer)
  state, batch = workload.state, _batch(workload)
  knobs: Any
  number = jax.ShapeDtypeStruct((), jnp.float32)
  count = jax.ShapeDtypeStruct((), jnp.int32)
  chunk = workload.loss_chunk
  if workload.sampling is None:
    config = pretrain.PretrainConfig(chunk, workload.optimizer.ema_decay)
    step: Any = pretrain.make_step(model, tx, config)
    knobs = pretrain.PretrainKnobs(number, number, number, number, number, count)
  else:
    step = grpo.make_step(model, tx, grpo.GRPOConfig(chunk))
    policy = jax.tree.map(lambda _: number, PolicyKnobs())
    knobs = grpo.GRPOKnobs(policy, number, count, number, number, number)
    batch = _rollout(workload, batch)
  placed = [_placed(mesh, tree) for tree in (state, batch)]
  return step.trace(*placed, knobs).lower(lowering_platforms=(platform,))


def _batch(workload: Workload) -> Any:
  shape = (workload.micro_batches, workload.rows, workload.length)
  kinds = (jnp.int32, jnp.int32, jnp.int32, jnp.float32)
  arrays: list[Any] = [jax.ShapeDtypeStruct(shape, kind) for kind in kinds]
  return Batch(*arrays)


def _rollout(workload: Workload, batch: Any) -> Any:
  model, shape = workload.model, batch.tokens_BT.shape
  number: Any = jax.ShapeDtypeStruct(shape, jnp.float32)
  choices = 0 if model.moe is None else model.moe.top_k
  experts: Any = jax.ShapeDtypeStruct(
    (shape[0], model.expert_layers, *shape[1:], choices), jnp.int32
  )
  return RolloutBatch(batch, number, number, number, number, experts)


def _placed(mesh: jax.sharding.Mesh, tree: Any) -> Any:
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
    tree,
    state_shardings(mesh, tree),
  )


def _told(error: str) -> tuple[float, float]:
  """Bytes of arguments and of the program, from the compiler's complaint that they are too many."""
  sizes = []
  for name in ("arguments", "program"):
    found = re.search(rf"{name}\s+([\d.]+)([KMGT]?)", error)
    sizes.append(float(found[1]) * _UNITS[found[2]] if found else float("nan"))
  return sizes[0], sizes[1]
