"""A plan: everything that a workload takes on a topology, and what that costs."""

import dataclasses

from deepseek_jax.config import MLAConfig, require
from deepseek_jax.plan.footprint import Footprint, footprint
from deepseek_jax.plan.reinforcement import Phases, phases
from deepseek_jax.plan.roofline import Attained, StepTime, step_time
from deepseek_jax.plan.topology import Topology
from deepseek_jax.plan.traffic import Bytes, traffic
from deepseek_jax.plan.workload import Workload
from deepseek_jax.sharding import AXES, ROWS, MeshConfig

TRILLION = 10**12


@dataclasses.dataclass(frozen=True)
class Plan:
  """One step on a topology."""

  workload: Workload
  topology: Topology
  attained: Attained
  price: float  # US dollars per device-hour
  footprint: Footprint
  sent: dict[str, Bytes]
  time: StepTime
  phases: Phases | None

  @property
  def seconds(self) -> float:
    """Of a step, or of an iteration of reinforcement."""
    return self.time.seconds if self.phases is None else self.phases.seconds

  @property
  def tokens_per_second(self) -> float:
    """Trained, or of reinforcement sampled, by all devices."""
    if self.phases is None:
      return self.time.tokens_per_second
    return self.phases.tokens / self.phases.seconds

  @property
  def hours_per_trillion(self) -> float:
    """Device-hours that 10^12 such tokens take."""
    return TRILLION / self.tokens_per_second * self.topology.devices / 3600

  @property
  def price_per_trillion(self) -> float:
    """US dollars."""
    return self.hours_per_trillion * self.price

  @property
  def fits(self) -> bool:
    """Whether a device's memory suffices."""
    return self.footprint.total <= self.topology.device.memory


def plan(
  workload: Workload, topology: Topology, attained: Attained | None = None, price: float = -1.0
) -> Plan:
  """The plan; ConfigError where the mesh is not the topology's or the rows do not divide.

  A price below 0 is the device's default.
  """
  check_mesh(workload, topology)
  attained = attained or Attained()
  sent = traffic(workload, topology)
  time = step_time(workload, topology, attained, sent)
  reinforced = workload.sampling is not None
  return Plan(
    workload=workload,
    topology=topology,
    attained=attained,
    price=topology.device.price if price < 0 else price,
    footprint=footprint(workload),
    sent=sent,
    time=time,
    phases=phases(workload, topology, attained, time) if reinforced else None,
  )


def check_mesh(workload: Workload, topology: Topology) -> None:
  """ConfigError unless the mesh takes all devices and splits the rows evenly."""
  mesh = workload.mesh
  require(
    mesh.devices == topology.devices,
    f"mesh is {told(mesh)} = {mesh.devices} devices, but {topology.name} has "
    f"{topology.devices}; give --config.mesh with that product, or --search.",
  )
  parts = mesh.row_devices
  product = " * ".join(f"mesh.{axis}" for axis in ROWS)
  require(
    workload.rows % parts == 0,
    f"a micro-batch has {workload.rows} rows; they must divide by {product}, {parts}: change "
    "them, or give --search.",
  )
  require(
    workload.length % mesh.context == 0,
    f"rows have {workload.length} tokens; they must divide by mesh.context, {mesh.context}.",
  )
  require(
    mesh.context == 1 or isinstance(workload.model.attention, MLAConfig),
    "mesh.context splits the tokens of MLA, and this model has grouped queries; make it 1.",
  )


def told(mesh: MeshConfig, least: int = 1) -> str:
  """A mesh in words, by its axes of `least` devices and more."""
  sizes = {axis: getattr(mesh, axis) for axis in AXES}
  return " * ".join(f"{axis} {size}" for axis, size in sizes.items() if size >= least) or "1"
