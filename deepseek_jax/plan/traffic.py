"""Bytes that each device receives over its links in a step of training.

Collectives are counted in their cheapest form: a gather or a scatter of an array goes over the
network once per domain of fast links and then within it; an all-reduce is a scatter and a gather.

  weights     gathered for the forward and again for the backward pass of every micro-batch
  gradients   scattered to where the parameters lie, and summed over the rest of the rows' axes
  tokens      once to every device that holds an expert of theirs, and one row back; in the backward
              pass once more, with the results' gradient, and one row back
  features    summed over `tensor`, twice a layer in every pass
  ring        latents and rotated keys once round `context` in every pass, with their gradients in
              float32 in the backward pass
"""

import dataclasses

from deepseek_jax.config import MLAConfig
from deepseek_jax.ops.reach import devices_per_token
from deepseek_jax.plan.footprint import local_tokens
from deepseek_jax.plan.placement import exchanges, ways
from deepseek_jax.plan.topology import Topology
from deepseek_jax.plan.workload import Workload
from deepseek_jax.sharding import AXES, MeshConfig
from deepseek_jax.sharding import TOKENS as TOKEN_AXES

WEIGHTS, GRADIENTS, TOKENS = "weights", "gradients", "tokens"
FEATURES, RING = "features", "ring"
_SPAN = 8  # bytes that say where a token stands: its position and its segment


@dataclasses.dataclass(frozen=True)
class Bytes:
  """Received by a device."""

  link: float = 0.0  # ICI or NVLink
  network: float = 0.0

  def __add__(self, other: "Bytes") -> "Bytes":
    return Bytes(self.link + other.link, self.network + other.network)

  def __mul__(self, times: float) -> "Bytes":
    return Bytes(self.link * times, self.network * times)


def traffic(workload: Workload, topology: Topology) -> dict[str, Bytes]:
  """Of one step, by what travels."""
  found = {WEIGHTS: Bytes(), GRADIENTS: Bytes()}
  micro = float(workload.micro_batches)
  for array in workload.arrays:
    whole = array.used(workload.mesh, workload.item)
    over = array.gathered
    found[WEIGHTS] += gather(workload.mesh, topology, over, whole) * (2 * micro)
    summed = tuple(a for a in TOKEN_AXES if a not in array.axes and getattr(workload.mesh, a) > 1)
    kept = whole / ways(workload.mesh, over)
    found[GRADIENTS] += gather(workload.mesh, topology, over, whole) * micro
    found[GRADIENTS] += gather(workload.mesh, topology, summed, kept) * 2
  found[TOKENS] = _tokens(workload, topology) * micro
  found[FEATURES] = _features(workload, topology) * micro
  found[RING] = _ring(workload, topology) * micro
  return {name: count for name, count in found.items() if count.link or count.network}


def gather(mesh: MeshConfig, topology: Topology, axes: tuple[str, ...], size: float) -> Bytes:
  """What a device receives when `size` bytes are gathered over mesh axes, or scattered."""
  total = ways(mesh, axes)
  if total == 1:
    return Bytes()
  near = joined(mesh, topology, axes)
  return Bytes(size * (near - 1) / near, size * (total / near - 1) / total)


def joined(mesh: MeshConfig, topology: Topology, axes: tuple[str, ...]) -> int:
  """How many of the devices along mesh axes share a domain; the mesh's last axis is innermost."""
  near, stride = 1, 1
  for axis in reversed(AXES):
    if axis in axes:
      near *= topology.joined(stride, getattr(mesh, axis))
    stride *= getattr(mesh, axis)
  return near


def copies(workload: Workload, topology: Topology) -> Bytes:
  """Expected copies of a token that leave its device: within its domain, and over the network."""
  config, mesh = workload.model, workload.mesh
  if config.moe is None or not exchanges(mesh):
    return Bytes()
  each = devices_per_token(config.moe, mesh.expert) / mesh.expert
  near = joined(mesh, topology, ("expert",))
  return Bytes(each * (near - 1), each * (mesh.expert - near))


def _tokens(workload: Workload, topology: Topology) -> Bytes:
  """The exchange of one micro-batch in all layers with experts."""
  config = workload.model
  if config.moe is None:
    return Bytes()
  layers = config.expert_layers + config.mtp_depth
  tokens, item = local_tokens(workload), workload.item
  if not exchanges(workload.mesh):  # all tokens are at every expert's device; results are summed
    size = tokens * config.d_model * item * layers
    return gather(workload.mesh, topology, ("expert",), size) * 4
  dispatch = 1 + 4 / 128 if workload.compute.precision.startswith("fp8") else item
  row = config.d_model * (2 * dispatch + 3 * item)
  return copies(workload, topology) * (tokens * layers * row)


def _features(workload: Workload, topology: Topology) -> Bytes:
  """Sums over `tensor`: attention's and the feed-forward's output, and their inputs' gradients."""
  config, mesh = workload.model, workload.mesh
  passes = {"full": 3, "dots": 2, "none": 2}[workload.compute.remat]
  layers = config.layers + config.mtp_depth
  size = local_tokens(workload) * config.d_model * workload.item
  return gather(mesh, topology, ("tensor",), size) * (2 * 2 * passes * layers)


def _ring(workload: Workload, topology: Topology) -> Bytes:
  """What attention sends round `context`: a device gets every part, its own after a whole turn."""
  config, mesh = workload.model, workload.mesh
  if mesh.context == 1 or not isinstance(config.attention, MLAConfig):
    return Bytes()
  forward = {"full": 2, "dots": 1, "none": 1}[workload.compute.remat]
  numbers = config.attention.kv_latent + config.attention.rope_dim
  each = (forward + 1) * (numbers * workload.item + _SPAN) + numbers * 4
  tokens = local_tokens(workload) * mesh.context  # that share a ring
  size = tokens * each * (config.layers + config.mtp_depth)
  # A hop more than a gather has: the last brings a device its own.
  return gather(mesh, topology, ("context",), size) * (mesh.context / (mesh.context - 1))
