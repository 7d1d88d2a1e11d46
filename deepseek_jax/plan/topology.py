"""A cluster or a slice: so many devices, of which some are joined by fast links.

`v5p-1024` is named as Google names slices, by TensorCores, of which v5p has two in a chip and JAX
one device; tpu7x also has two, and JAX a device for each. `v5p:8x8x8` gives the chips of a torus.
`h800-2048` is 2048 GPUs, eight to a node.
"""

import dataclasses
import math
import re

from deepseek_jax.config import require
from deepseek_jax.plan.hardware import DEVICES, Device, device

_NAME = re.compile(r"([a-z0-9]+)(?:-(\d+)|:(\d+(?:x\d+){0,2}))?")
_HALVES = 2  # devices of a tpu7x chip


@dataclasses.dataclass(frozen=True)
class Topology:
  """So many devices of one kind."""

  device: Device
  devices: int
  shape: tuple[int, ...] = ()  # of a torus, in chips; (): as cubic as can be

  @property
  def name(self) -> str:
    """As it is given."""
    if self.shape:
      return f"{self.device.name}:{'x'.join(map(str, self.shape))}"
    return f"{self.device.name}-{self.devices * self.device.cores}"

  @property
  def domain(self) -> int:
    """Devices that fast links join."""
    return min(self.devices, self.device.domain)

  @property
  def sides(self) -> tuple[int, ...]:
    """The torus in chips: as it is given, or as cubic as its chips can be laid."""
    if self.shape or not self.device.torus:
      return self.shape
    chips = self.devices // (_HALVES if self.device.name == "tpu7x" else 1)
    sides = [1] * self.device.torus
    for prime in reversed(_primes(chips)):
      sides[sides.index(min(sides))] *= prime
    return tuple(sorted(sides)) if chips > 4 else tuple(sorted(sides, reverse=True))

  def joined(self, stride: int, size: int) -> int:
    """How many of the `size` devices along a mesh axis, `stride` apart, share a domain."""
    return max(1, min(size, self.domain // stride)) if size > 1 else 1

  def exchange_bandwidth(self, size: int) -> float:
    """Bytes per second that a device sends in an all-to-all among `size` joined by fast links.

    On a torus bytes take hops, and the longest dimension, of a, is the narrow one: each of its
    rings carries a / 4 times the bytes of a device over two directions, a / 8 over one.
    """
    if not self.device.torus or size == 1:
      return self.device.link
    longest = max(2, math.ceil(size ** (1 / self.device.torus) - 1e-9))
    one_way = self.device.link / (2 * self.device.torus)
    return min(self.device.link, 8 * one_way / longest)


def topology(name: str) -> Topology:
  """The topology of a name; ConfigError where it is none."""
  found = _NAME.fullmatch(name.strip().lower())
  known = found is not None and found[1] in DEVICES and bool(found[2] or found[3])
  require(
    known,
    f"--topology is {name!r}; give DEVICE-COUNT like v5p-1024 or h800-2048, or DEVICE:AxBxC like "
    f"v5p:8x8x8, of {', '.join(DEVICES)}.",
  )
  assert found is not None
  kind = device(found[1])
  if found[3]:
    require(kind.torus > 0, f"--topology is {name!r}, but {kind.name} has no torus; give a count.")
    shape = tuple(int(n) for n in found[3].split("x"))
    chips = math.prod(shape)
    devices = chips * (_HALVES if kind.name == "tpu7x" else 1)
    require(chips > 0, f"--topology is {name!r}; every side must be positive.")
    return Topology(kind, devices, shape)
  count = int(found[2])
  require(
    count > 0 and count % kind.cores == 0,
    f"--topology is {name!r}; its count is of TensorCores, {kind.cores} to a device: give a "
    "positive multiple."
    if kind.cores > 1
    else f"--topology is {name!r}; its count must be positive.",
  )
  return Topology(kind, count // kind.cores)


def _primes(number: int) -> list[int]:
  """Its prime factors, the least first."""
  found, prime = [], 2
  while number > 1:
    while number % prime == 0:
      found.append(prime)
      number //= prime
    prime += 1
  return found
