"""Timing on a machine that is not always quiet: turns taken one by one, then medians."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def machine() -> dict[str, Any]:
  """What the figures depend on; the load average says whether anything else was running.

  `matmul_gflops` is the best of several products of two float32 matrices [2048, 2048].
  """
  load = [round(x, 2) for x in os.getloadavg()]  # before this process adds to it
  model = ""
  if os.path.exists("/proc/cpuinfo"):
    with open("/proc/cpuinfo") as lines:
      model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
  return {
    "cpu": model or platform.processor(),
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "load_average": load,
    "matmul_gflops": round(_matmul_rate(2048) / 1e9),
  }


def _matmul_rate(size: int) -> float:
  """Floating-point operations per second of a square product."""
  import jax
  import jax.numpy as jnp

  x_DD = jnp.ones((size, size))
  product = jax.jit(jnp.dot)
  jax.block_until_ready(product(x_DD, x_DD))
  return 2 * size**3 / min(stopwatch(lambda: product(x_DD, x_DD)) for _ in range(5))


def take_turns(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
  """Seconds of each contender in each round, A B A B: what disturbs one disturbs its neighbour."""
  seconds: dict[str, list[T]] = {name: [] for name in contenders}
  for _ in range(rounds):
    for name, turn in contenders.items():
      seconds[name].append(turn())
  return seconds


def stopwatch(run: Callable[[], Any]) -> float:
  """Seconds that `run` takes, its arrays being ready at the end."""
  import jax

  start = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - start


def pair_ratio(mine: list[float], theirs: list[float]) -> float:
  """How many times faster `mine` is: the median over pairs that ran one after the other."""
  return statistics.median(b / a for a, b in zip(mine, theirs))
