"""Whole GRPO steps of ours and of another's, turn by turn on one checkpoint."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.contender import Contender
from experiments.benchmarks.reinforcers import CONTENDERS, Lesson, Seconds
from experiments.benchmarks.timing import pair_ratio, take_turns

_WARMUP = 2  # steps after the first: the heap takes some to settle


def measure(directory: str, against: str, pairs: int) -> dict[str, Any]:
  """Seconds of a step, medians of `pairs` turns, and how many times faster ours is."""
  names = ["deepseek_jax", *([against] if against else [])]
  lesson = Lesson(
    directory, json.loads((Path(directory) / "config.json").read_text())["vocab_size"]
  )
  contenders: dict[str, Contender] = {}
  try:
    for name in names:
      contenders[name] = Contender(CONTENDERS[name], lesson, warmup=1)
    for contender in contenders.values():
      contender(_WARMUP)
    turns = {name: lambda c=c: c(1) for name, c in contenders.items()}
    seconds = take_turns(turns, pairs)
  finally:
    for contender in contenders.values():
      contender.close()
  medians = {n: _medians(contenders[n].first, seconds[n]) for n in names}
  result: dict[str, Any] = {"lesson": dataclasses.asdict(lesson), "seconds": medians}
  if against:
    ours, theirs = ([step.whole for step in seconds[name]] for name in names)
    result["ratio"] = pair_ratio(ours, theirs)
  return result


def _medians(first: Seconds, steps: Sequence[Seconds]) -> dict[str, Any]:
  """The first step, the usual one, its parts where they are known, and all of them."""
  found: dict[str, Any] = {"first": first.whole, "step": statistics.median(s.whole for s in steps)}
  for part in ("sampling", "updating"):
    if getattr(first, part) is not None:
      found[part] = statistics.median(getattr(s, part) for s in steps)
  return {**found, "all": [round(s.whole, 2) for s in steps]}
