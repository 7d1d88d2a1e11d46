"""Timing on a machine that is not always quiet: turns taken one by one, then medians."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def machine() -> dict[str, Any]:
  """What the figures depend on; the load average says whether anything else was running."""
  model = ""
  if os.path.exists("/proc/cpuinfo"):
    with open("/proc/cpuinfo") as lines:
      model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
  return {
    "cpu": model or platform.processor(),
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "load_average": [round(x, 2) for x in os.getloadavg()],
  }


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
