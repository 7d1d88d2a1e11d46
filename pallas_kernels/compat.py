"""What depends on the version of jax, which no other file asks for, or on the device traced for."""

import dataclasses
from typing import Any

import jax

VERSION = tuple(int(part) for part in jax.__version__.split(".")[:3])
HAS_MGPU = VERSION >= (0, 11, 2)  # Hopper kernels: wgmma on transposed references, races, fences


def gpu_interpreter(**options: Any) -> Any:
  """Parameters that run a Mosaic GPU kernel on a CPU; they are public since jax 0.11.2.

  With few simulated TMA threads a load that shares a store's thread orders that store before it,
  and the race detector misses a forgotten wait; with many it does not.
  """
  from jax.experimental.pallas import mosaic_gpu

  plgpu: Any = mosaic_gpu  # whose older versions have no such name
  options = {"num_tma_threads_per_device": 64} | options
  return plgpu.InterpretGPUParams(**_going_on(plgpu.InterpretGPUParams), **options)


def tpu_interpreter(**options: Any) -> Any:
  """Parameters that run a Mosaic TPU kernel on a CPU, memories and DMAs included."""
  from jax.experimental.pallas import tpu as pltpu

  return pltpu.InterpretParams(**_going_on(pltpu.InterpretParams), **options)


def _going_on(params: Any) -> dict[str, Any]:
  """Since jax 0.12 a race ends a kernel unless told otherwise; before, none did."""
  fields = {field.name for field in dataclasses.fields(params)}
  return {"on_race": "warn"} if "on_race" in fields else {}


def multiprocessors() -> int:
  """Multiprocessors of the GPU that is traced for: the pretended one, else the default device."""
  pretended = jax.sharding.get_abstract_mesh().abstract_device
  return pretended.num_cores if pretended is not None else jax.devices()[0].core_count


def device_kind() -> str:
  """The kind of device that is traced for: the pretended one's, else the default device's."""
  pretended = jax.sharding.get_abstract_mesh().abstract_device
  return (pretended if pretended is not None else jax.devices()[0]).device_kind
