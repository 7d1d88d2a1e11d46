"""Bytes that reinforcement takes at its longest batch, beside those that the machine has.

Weights, moments and batch are counted from their shapes; what an update needs besides, its
gradients, activations and logits, is what XLA says of the compiled program. All of it is of one
device: on a mesh what sampling holds is taken to be spread evenly.
"""

import dataclasses
import math
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deepseek_jax.model.adapters import trained
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.plan.memory import cache_bytes, weight_bytes
from deepseek_jax.rl.rollout import RolloutConfig
from deepseek_jax.train.state import TrainState, learnt

_MEMINFO = Path("/proc/meminfo")
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclasses.dataclass(frozen=True)
class Headroom:
  """Bytes on one device."""

  weights: int
  moments: int
  reference: int
  saved: int  # of these three in a checkpoint
  gradients: int  # among the temporaries
  temporaries: int  # of an update, with the batch it reads
  prepared: int  # weights as the sampler reads them
  cache: int  # of the sampler, with the logits of a step
  available: int | None = None  # None where the system does not say

  @property
  def state(self) -> int:
    """What is there all the time."""
    return self.weights + self.moments + self.reference + self.prepared

  @property
  def updating(self) -> int:
    """The most that there is in an update."""
    return self.state + self.temporaries

  @property
  def sampling(self) -> int:
    """The most that there is while sampling."""
    return self.state + self.cache

  @property
  def peak(self) -> int:
    """The more of both."""
    return max(self.updating, self.sampling)

  @property
  def suffices(self) -> bool:
    """Whether that fits into what is available, as far as that is known."""
    return self.available is None or self.peak <= self.available


class CompiledUpdate:
  """An update step that was compiled before there is a state; called like `grpo.make_step`'s.

  `seconds` it took, and `temporaries` are the bytes it needs on a device beside its state.
  """

  def __init__(
    self, step: Any, state: TrainState, batch: Any, knobs: Any, clock: Callable[[], float]
  ):
    """`state` may be abstract; the step is compiled for the shapes and places of all three."""
    began = clock()
    self._program = step.lower(state, batch, _traced(knobs)).compile()
    self.seconds = clock() - began
    memory = self._program.memory_analysis()
    self.temporaries = (
      memory.temp_size_in_bytes
      + max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes)
      + device_bytes(batch)
    )

  def __call__(self, state: TrainState, batch: Any, knobs: Any) -> Any:
    return self._program(state, batch, _traced(knobs))


def _traced(knobs: Any) -> Any:
  """Coefficients in the one type each that a compiled program takes."""

  def of_one_type(x: Any) -> np.ndarray:
    whole = np.issubdtype(np.asarray(x).dtype, np.integer)
    return np.asarray(x, np.int32 if whole else np.float32)

  return jax.tree.map(of_one_type, knobs)


def measure_headroom(
  model: Transformer,
  state: TrainState,
  update: CompiledUpdate,
  config: RolloutConfig,
  engine_batch: int,
) -> Headroom:
  """What a stage needs with a state (which may be abstract), and what there is for it."""
  devices = 1 if model.mesh is None else model.mesh.size
  dtype = model.compute.dtype
  rows = sampled_rows(config.prompts * config.group, engine_batch)
  logits = 2 * 4 * rows * model.config.vocab  # float32, and as much while a token is drawn
  # A long cache grows into one twice as large, and both are there for a moment.
  cache = 1.5 * cache_bytes(model.config, config.width, rows, dtype)
  return Headroom(
    weights=device_bytes(state.weights),
    moments=device_bytes(state.opt_state),
    reference=device_bytes(state.reference),
    saved=device_bytes(learnt(state)),
    gradients=device_bytes(trained(state.weights.params)),
    temporaries=update.temporaries,
    prepared=weight_bytes(model.config, dtype) // devices,
    cache=int(cache + logits) // devices,
    available=available_bytes(devices),
  )


def sampled_rows(samples: int, most: int) -> int:
  """Rows in which an engine of `most` slots decodes that many samples (see `SlotEngine`)."""
  rows = most
  while rows % 4 == 0 and rows // 4 >= samples:
    rows //= 4
  return rows


def device_bytes(tree: Any) -> int:
  """Bytes of arrays, or of their shapes, on the device that has the most of each."""

  def size(leaf: Any) -> int:
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize

  return sum(size(leaf) for leaf in jax.tree.leaves(tree))


def available_bytes(devices: int = 1) -> int | None:
  """Bytes that a run may have on each of its devices; None where the system does not say.

  Of a CPU it is the memory that is free or this process's own, within the limit of its container,
  in equal parts where it poses as several devices.
  """
  device = jax.local_devices()[0]
  if device.platform != "cpu":
    return (device.memory_stats() or {}).get("bytes_limit")
  free = _free_bytes()
  limits = [int(text) for path in _LIMITS if (text := _read(Path(path))).isdecimal()]
  found = [n for n in (free, *limits) if n is not None]
  return min(found) // min(devices, jax.local_device_count()) if found else None


def peak_bytes() -> int:
  """The most that this process has held so far: on its first device, or of the CPU's memory."""
  device = jax.local_devices()[0]
  if device.platform != "cpu":
    return (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


def _free_bytes() -> int | None:
  """What the system would give to new programs, and this process's own; else all it has."""
  for line in _read(_MEMINFO).splitlines():
    name, _, value = line.partition(":")
    if name == "MemAvailable":
      pages = _read(Path("/proc/self/statm")).split()
      own = int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > 1 else 0
      return int(value.split()[0]) * 1024 + own
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (OSError, ValueError):
    return None


def _read(path: Path) -> str:
  try:
    return path.read_text().strip()
  except OSError:
    return ""
