"""The fastest mesh of those whose memory suffices."""

import dataclasses
from collections.abc import Iterator

from deepseek_jax.config import ConfigError
from deepseek_jax.plan.estimate import Plan, plan
from deepseek_jax.plan.footprint import footprint
from deepseek_jax.plan.memory import readable
from deepseek_jax.plan.roofline import Attained
from deepseek_jax.plan.topology import Topology
from deepseek_jax.plan.workload import Workload
from deepseek_jax.sharding import AXES, MeshConfig


def search(
  workload: Workload,
  topology: Topology,
  limit: float,
  attained: Attained | None = None,
  price: float = -1.0,
) -> list[Plan]:
  """Plans that fit into `limit` bytes on a device, the quickest step first, one for each mesh.

  The rows of a step stay as they are; how they are cut into micro-batches may change. Raises
  ConfigError where nothing fits, with the mesh that comes nearest.
  """
  found: list[Plan] = []
  least, nearest = float("inf"), workload
  for mesh in meshes(workload, topology):
    for candidate in _cut(dataclasses.replace(workload, mesh=mesh), limit):
      needed = footprint(candidate).total
      if needed < least:
        least, nearest = needed, candidate
      if needed <= limit:  # more micro-batches would only gather the weights more often
        found.append(plan(candidate, topology, attained, price))
        break
  if not found and least == float("inf"):
    raise ConfigError(
      f"no mesh of {topology.devices} devices splits a step of "
      f"{workload.rows * workload.micro_batches} rows of {workload.length} tokens so that its "
      f"parameters and moments fit into {readable(int(limit))}; take more devices or more rows."
    )
  if not found:
    sizes = ", ".join(f"mesh.{axis}={getattr(nearest.mesh, axis)}" for axis in AXES)
    raise ConfigError(
      f"no mesh of {topology.name} fits into {readable(int(limit))} a device; {sizes} comes "
      f"nearest with {readable(int(least))}: take more devices, or fewer rows or tokens a step."
    )
  return sorted(found, key=_rank)


def _rank(made: Plan) -> tuple[float, float]:
  """By seconds, and where these are as good as equal by memory."""
  return float(f"{made.seconds:.4g}"), made.footprint.total


def meshes(workload: Workload, topology: Topology) -> Iterator[MeshConfig]:
  """Meshes of all devices: experts must divide; tensor parts share fast links and divide heads."""
  moe, heads = workload.model.moe, workload.model.heads
  for tensor in _divisors(topology.devices):
    if heads % tensor or tensor > topology.domain:
      continue
    for expert in _divisors(topology.devices // tensor):
      if expert > 1 and (moe is None or moe.experts % expert):
        continue
      for fsdp in _divisors(topology.devices // tensor // expert):
        data = topology.devices // tensor // expert // fsdp
        yield MeshConfig(data=data, fsdp=fsdp, expert=expert, tensor=tensor)


def _cut(workload: Workload, limit: float) -> Iterator[Workload]:
  """The workload with its rows cut into ever more micro-batches that the mesh can split.

  Nothing where what is kept exceeds the limit already.
  """
  kept, parts = workload.kept, workload.mesh.row_devices
  if kept["parameters"] + kept["moments"] > limit:
    return
  sequences = workload.rows * workload.micro_batches
  for count in _divisors(sequences):
    if sequences // count % parts == 0:
      yield dataclasses.replace(workload, rows=sequences // count, micro_batches=count)


def _divisors(number: int) -> list[int]:
  small = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
  return sorted({*small, *(number // n for n in small)})
