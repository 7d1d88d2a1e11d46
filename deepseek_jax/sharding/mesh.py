"""The mesh of devices that a job runs on."""

import dataclasses
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from deepseek_jax.config import require
from deepseek_jax.hosts import group

AXES = ("data", "fsdp", "expert", "context", "tensor")
ROWS = ("data", "fsdp", "expert")
TOKENS = (*ROWS, "context")
SPLIT = ("fsdp", "expert", "context")  # of weights

ROWS_TOLD = " * ".join(f"mesh.{axis}" for axis in ROWS)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each mesh axis; all ones is a single device."""

  data: int = 1
  fsdp: int = 1
  expert: int = 1
  context: int = 1
  tensor: int = 1

  def __post_init__(self) -> None:
    for name in AXES:
      value = getattr(self, name)
      require(value > 0, f"mesh.{name} is {value}; it must be positive.")

  @property
  def devices(self) -> int:
    """How many devices the mesh takes."""
    return math.prod(getattr(self, name) for name in AXES)

  @property
  def row_devices(self) -> int:
    """How many ways the rows of a batch are split."""
    return math.prod(getattr(self, axis) for axis in ROWS)

  @property
  def token_devices(self) -> int:
    """How many ways the tokens of a batch are split."""
    return self.row_devices * self.context

  def check_rows(self, name: str, rows: int) -> None:
    """ConfigError unless `rows` of a batch, the field `name`, can be dealt to the devices."""
    parts = self.row_devices
    require(rows % parts == 0, f"{name} is {rows}; it must divide by {ROWS_TOLD}, {parts}.")


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
  """The mesh of `config` over `devices`, by default all there are, of all processes.

  All ones takes the first device of a process that is alone; any other mesh must take every
  device, or ConfigError.
  """
  devices = list(jax.devices() if devices is None else devices)
  if config.devices == 1 and not group.several():
    devices = devices[:1]
  sizes = tuple(getattr(config, name) for name in AXES)
  product = " * ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
  require(
    config.devices == len(devices),
    f"mesh is {product} = {config.devices} devices, but there are {len(devices)}; "
    "make the product of its axes equal that.",
  )
  # An axis may be as long as part of a torus's side, which jax.make_mesh refuses.
  laid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  return Mesh(laid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
