"""Seconds of a training step by a roofline.

  computing  the larger of FLOPs / (peak * compute) and HBM bytes / (bandwidth * memory)
  sending    the larger of the times of fast links and of the network, bytes / (speed * links)
  summing    of features over `tensor`, bytes / (speed * links), which nothing hides
  step       computing + summing + max(0, sending - overlap * computing) + the optimiser's pass

The four shares are `Attained`. Products of linear layers run at FP8's peak where the precision says
so, all else at that of the compute dtype. A layer that is made again for its backward pass counts
four forward passes in place of three.
"""

import dataclasses

from deepseek_jax.config import ModelConfig, require
from deepseek_jax.plan.flops import flops_by_part
from deepseek_jax.plan.footprint import (
  all_layers,
  attention_numbers,
  feed_forward_numbers,
  local_tokens,
)
from deepseek_jax.plan.topology import Topology
from deepseek_jax.plan.traffic import FEATURES, TOKENS, Bytes, traffic
from deepseek_jax.plan.workload import Workload

_LINEAR = ("attention projections", "dense feed-forward", "routed experts", "shared experts")


@dataclasses.dataclass(frozen=True)
class Attained:
  """Shares of the makers' figures that programs attain."""

  compute: float = 0.6  # DeepGEMM's FP8 products of V3's shapes reach 0.5 to 0.7 of an H800's
  memory: float = 0.8
  links: float = 0.8
  overlap: float = 0.8  # of computing, under which sending can hide

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      least = value >= 0 if field.name == "overlap" else value > 0
      require(
        least and value <= 1, f"--attained {field.name} is {value}; give a share above 0, up to 1."
      )


@dataclasses.dataclass(frozen=True)
class StepTime:
  """Seconds of one step, and what it computes."""

  compute: float
  memory: float
  link: float
  network: float
  summing: float
  optimiser: float
  overlap: float
  tokens: int
  model_flops: float  # of all devices, forward and backward, nothing made again

  @property
  def computing(self) -> float:
    """The longer of arithmetic and memory."""
    return max(self.compute, self.memory)

  @property
  def exposed(self) -> float:
    """Sending that nothing hides."""
    return max(0.0, max(self.link, self.network) - self.overlap * self.computing)

  @property
  def seconds(self) -> float:
    """The whole step."""
    return self.computing + self.summing + self.exposed + self.optimiser

  @property
  def tokens_per_second(self) -> float:
    """Of all devices."""
    return self.tokens / self.seconds

  @property
  def bound(self) -> str:
    """What takes longest."""
    named = {"compute": self.compute, "HBM": self.memory, "fast links": self.link}
    named["network"] = self.network
    return max(named, key=lambda name: named[name])

  def utilisation(self, topology: Topology) -> float:
    """Model FLOPs over those of the bfloat16 peak."""
    peak = topology.device.flops["bfloat16"] * topology.devices
    return self.model_flops / self.seconds / peak


def step_time(
  workload: Workload,
  topology: Topology,
  attained: Attained,
  sent: dict[str, Bytes] | None = None,
) -> StepTime:
  """A training step on the topology; `sent` is `traffic`'s, where it is known already."""
  sent = traffic(workload, topology) if sent is None else sent
  device, config = topology.device, workload.model
  parts = flops_by_part(config, workload.length / 2, mtp=True)
  compute = sum(
    _local_share(workload, part) * count * passes(workload) / _peak(topology, workload, part)
    for part, count in parts.items()
  )
  exchanged, summed = sent.get(TOKENS, Bytes()).link, sent.get(FEATURES, Bytes())
  fast = sum(moved.link for what, moved in sent.items() if what not in (TOKENS, FEATURES))
  link = fast / device.link + exchanged / topology.exchange_bandwidth(workload.mesh.expert)
  network = sum(moved.network for what, moved in sent.items() if what != FEATURES) / device.network
  return StepTime(
    compute=compute / attained.compute,
    memory=_memory_bytes(workload) / (device.bandwidth * attained.memory),
    link=link / attained.links,
    network=network / attained.links,
    optimiser=_optimiser_bytes(workload) / (device.bandwidth * attained.memory),
    summing=(summed.link / device.link + summed.network / device.network) / attained.links,
    overlap=attained.overlap,
    tokens=workload.tokens,
    model_flops=3.0 * sum(parts.values()) * workload.tokens,
  )


def passes(workload: Workload) -> float:
  """Forward passes' worth of arithmetic in a step."""
  return {"full": 4.0, "dots": 3.0, "none": 3.0}[workload.compute.remat]


def _local_share(workload: Workload, part: str) -> float:
  """Tokens of a step of which a device computes all of a part.

  Routed experts' work is spread over all devices; the rest of a device's rows' is its own, of
  which `tensor` takes a part.
  """
  if part == "routed experts":
    return workload.tokens / workload.mesh.devices
  return workload.tokens / workload.mesh.token_devices / workload.mesh.tensor


def _peak(topology: Topology, workload: Workload, part: str) -> float:
  precise = workload.compute.precision.startswith("fp8") and part in _LINEAR
  return topology.device.flops["fp8" if precise else workload.compute.dtype]


def _memory_bytes(workload: Workload) -> float:
  """HBM bytes of a step: every intermediate written and read in each pass, weights read in each."""
  config, count = workload.model, passes(workload)
  tokens = local_tokens(workload) * workload.micro_batches
  moved = 2 * tokens * workload.item * _layer_numbers(config, workload) * count
  weights = sum(array.used(workload.mesh, workload.item) for array in workload.arrays)
  return moved + weights * count * workload.micro_batches


def _layer_numbers(config: ModelConfig, workload: Workload) -> float:
  """A token's intermediates in all layers on a device."""
  dense, routed, shared = feed_forward_numbers(workload)
  attention = attention_numbers(config) / min(workload.mesh.tensor, config.heads)
  own = (config.layers + config.mtp_depth) * (6 * config.d_model + attention)
  return own + all_layers(config, dense, routed + shared)


def _optimiser_bytes(workload: Workload) -> float:
  """Parameters, moments and gradients read, the first two written."""
  kept = workload.kept
  return 2 * (kept["trained"] + kept["moments"]) + kept["trained"]
