"""The fastest mesh of those whose memory suffices."""

import dataclasses
import itertools
from collections.abc import Iterator

from deepseek_jax.config import ConfigError, MLAConfig
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
  few = workload.rows * workload.micro_batches < topology.devices
  for split in (True,) if few else (False, True):  # tokens of a row, only if that is needed
    for mesh in meshes(workload, topology, split):
      for candidate in _cut(dataclasses.replace(workload, mesh=mesh), limit):
        needed = footprint(candidate).total
        if needed < least:
          least, nearest = needed, candidate
        if needed <= limit:  # more micro-batches would only gather the weights more often
          found.append(plan(candidate, topology, attained, price))
          break
    if found:
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


def meshes(workload: Workload, topology: Topology, split: bool) -> Iterator[MeshConfig]:
  """Meshes of all devices: experts must divide; tensor parts share fast links and divide heads.

  The tokens of a row are split where `split` says that they may be, and attention is MLA.
  """
  moe, heads, devices = workload.model.moe, workload.model.heads, topology.devices
  ring = split and isinstance(workload.model.attention, MLAConfig)
  for tensor, context, expert in itertools.product(_divisors(devices), repeat=3):
    if devices % (tensor * context * expert):
      continue
    if heads % tensor or tensor > topology.domain:
      continue
    if context > 1 and not (ring and workload.length % context == 0):
      continue
    if expert > 1 and (moe is None or moe.experts % expert):
      continue
    rest = devices // (tensor * context * expert)
    for fsdp in _divisors(rest):
      yield MeshConfig(rest // fsdp, fsdp, expert, context, tensor)


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
