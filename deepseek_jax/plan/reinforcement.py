"""Seconds of a step of reinforcement by phase: sampling, scoring, updating, and weights between.

Samples are drawn `rows` at a time, a finished row making room for the next: a step of decoding is
taken as often as there are tokens to each row, and at least as often as the longest sample has.
All devices decode as one group (`serving.py`). Scoring is a forward pass over prompts and samples;
updating takes as many micro-batches (`roofline.py`) as an update's tokens fill, and whole ones.
"""

import dataclasses
import math

from deepseek_jax.plan.flops import forward_flops, parameters
from deepseek_jax.plan.roofline import Attained, StepTime
from deepseek_jax.plan.serving import Serving
from deepseek_jax.plan.topology import Topology
from deepseek_jax.plan.traffic import joined
from deepseek_jax.plan.workload import Workload
from deepseek_jax.sharding import AXES


@dataclasses.dataclass(frozen=True)
class Phases:
  """Seconds of an iteration."""

  sampling: float
  scoring: float
  updating: float
  weights: float  # from the trainer's places to the sampler's, in the compute dtype
  tokens: float  # sampled

  @property
  def seconds(self) -> float:
    """The whole iteration; its phases follow one another."""
    return self.sampling + self.scoring + self.updating + self.weights


def phases(workload: Workload, topology: Topology, attained: Attained, update: StepTime) -> Phases:
  """Of one iteration; `update` is one training step of the workload."""
  plan = workload.sampling
  assert plan is not None
  group = Serving(workload.model, topology, topology.devices, "bfloat16", attained)
  rows = min(plan.rows, plan.samples)
  steps = max(plan.samples * plan.mean / rows, plan.longest)
  busy = plan.samples * plan.mean / steps  # rows at a time on the average
  prefill = group.prefill(plan.prompt) * plan.samples
  sequence = plan.prompt + plan.mean
  whole = plan.samples * sequence
  peak = topology.device.flops[workload.compute.dtype] * topology.devices * attained.compute
  return Phases(
    sampling=steps * group.step(busy, plan.prompt + plan.mean / 2) + prefill,
    scoring=plan.scorings * whole * forward_flops(workload.model, sequence / 2) / peak,
    updating=plan.updates * _update_seconds(workload, update, whole * plan.epochs / plan.updates),
    weights=_handed_over(workload, topology) / attained.links,
    tokens=float(plan.samples * plan.mean),
  )


def _update_seconds(workload: Workload, step: StepTime, tokens: float) -> float:
  """An update of so many tokens; `step` is one of all micro-batches."""
  filled = math.ceil(tokens / (workload.rows * workload.length))
  each = (step.seconds - step.optimiser) / workload.micro_batches
  return filled * each + step.optimiser


def _handed_over(workload: Workload, topology: Topology) -> float:
  """Seconds in which every device receives its share of the sampler's weights anew."""
  mesh = workload.mesh
  if mesh.devices == 1:
    return 0.0
  size = parameters(workload.model, mtp=True) * workload.item / mesh.devices
  near = joined(mesh, topology, AXES) / mesh.devices
  return size * max(near / topology.device.link, (1 - near) / topology.device.network)
