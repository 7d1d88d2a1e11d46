"""What it takes to answer: the cache of a long request, its reading, and tokens per second.

A group of devices holds the weights once, split evenly, as large services do (experts over all,
2412.19437 section 3.4); what is read in a step is every expert that some row chose and all else.
A decoding step takes the longest of HBM, arithmetic and sending, and a fixed time for the two
exchanges of every layer: 30 us each is what DeepEP's low-latency dispatch takes beyond its bytes
(github.com/deepseek-ai/DeepEP, June 2025: 77 us for 128 tokens of 7,168 numbers to 8 experts, of
which 7.3 MB at 160 GB/s are 46).
"""

import dataclasses

from deepseek_jax.config import MLAConfig, ModelConfig
from deepseek_jax.ops.reach import devices_per_token, experts_touched
from deepseek_jax.plan.flops import flops_by_part, forward_flops, parameters
from deepseek_jax.plan.memory import cache_bytes, weight_bytes
from deepseek_jax.plan.roofline import Attained
from deepseek_jax.plan.topology import Topology

EXCHANGE = 30e-6  # seconds of one exchange, beside its bytes
_RESERVE = 0.1  # of memory, for activations


@dataclasses.dataclass(frozen=True)
class Serving:
  """A group of devices that decodes together."""

  model: ModelConfig
  topology: Topology
  devices: int
  dtype: str = "bfloat16"  # of the weights: bfloat16 or fp8
  attained: Attained = Attained()

  @property
  def weights(self) -> float:
    """Bytes of the weights on a device, without MTP modules."""
    return weight_bytes(self.model, self.dtype, mtp=False) / self.devices

  def rows(self, context: int) -> int:
    """Requests of that length whose caches fit beside the weights."""
    free = self.topology.device.memory * (1 - _RESERVE) - self.weights
    return max(0, int(free * self.devices / cache_bytes(self.model, context)))

  def step(self, rows: float, context: float) -> float:
    """Seconds of a decoding step of `rows` rows that see `context` tokens each."""
    device, attained = self.topology.device, self.attained
    read = self._read(rows) + rows * cache_bytes(self.model, 1) * context
    memory = read / self.devices / (device.bandwidth * attained.memory)
    absorbed = isinstance(self.model.attention, MLAConfig)
    flops = sum(flops_by_part(self.model, context, absorbed=absorbed).values())
    compute = rows * flops / self.devices / (device.flops["bfloat16"] * attained.compute)
    return max(memory, compute, self._sending(rows)) + self._fixed()

  def prefill(self, tokens: int) -> float:
    """Seconds to read a prompt, by arithmetic."""
    flops = tokens * forward_flops(self.model, tokens / 2)
    return flops / self.devices / (self.topology.device.flops["bfloat16"] * self.attained.compute)

  def _read(self, rows: float) -> float:
    """Bytes of weights that one step reads, of all devices."""
    moe = self.model.moe
    whole = weight_bytes(self.model, self.dtype, mtp=False)
    if moe is None:
      return whole
    experts = 3 * self.model.d_model * moe.expert_ff * moe.experts * self.model.expert_layers
    share = experts / parameters(self.model)
    return whole * (1 - share + share * experts_touched(moe, rows) / moe.experts)

  def _layers_exchanging(self) -> int:
    return self.model.layers if self.devices > 1 else 0

  def _sending(self, rows: float) -> float:
    """Seconds of the exchange: a token out in a byte a number, a row back in two."""
    moe, width = self.model.moe, self.model.d_model
    if self.devices == 1:
      return 0.0
    if moe is None:  # features summed over the group, twice a layer
      size = 2 * 2 * 2 * rows * width * self.model.layers
      return size / (self._link() * self.attained.links)
    parts = next(n for n in range(min(self.devices, moe.experts), 0, -1) if moe.experts % n == 0)
    copies = rows / self.devices * devices_per_token(moe, parts)
    size = copies * 3 * width * self.model.expert_layers
    return size / (self._link() * self.attained.links)

  def _link(self) -> float:
    device = self.topology.device
    return device.link if self.devices <= self.topology.domain else device.network

  def _fixed(self) -> float:
    return 2 * EXCHANGE * self._layers_exchanging()


def smallest_group(
  model: ModelConfig, topology: Topology, context: int, dtype: str, attained: Attained
) -> Serving | None:
  """The fewest devices, a power of two, that hold weights and one request; None if all do not."""
  devices = 1
  while devices <= topology.devices:
    group = Serving(model, topology, devices, dtype, attained)
    if group.rows(context) >= 1:
      return group
    devices *= 2
  return None
