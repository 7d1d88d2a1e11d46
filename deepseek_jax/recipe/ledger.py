"""What every stage cost and what it was given: the run's book-keeping."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_jax.config import ModelConfig
from deepseek_jax.plan.flops import train_flops
from deepseek_jax.recipe.clock import Clock
from deepseek_jax.recipe.config import GivenStage, ReinforceStage, Stage

PARTS = ("compile", "training", "sampling", "evaluation", "drawing")  # in this order in tables


@dataclasses.dataclass
class Entry:
  """One stage. FLOPs are counted from shapes (plan/flops.py), not measured.

  Seconds and programs are those of the process that finished the stage. No part's seconds contain
  another's: what XLA compiles while it trains is in `compile_seconds` only.
  """

  stage: str
  model: str
  start: str | None
  source: str | None
  steps: int = 0
  tokens_trained: int = 0  # all tokens that training steps read
  tokens_sampled: int = 0  # new tokens, for rollouts or for training data
  train_flops: float = 0.0
  sample_flops: float = 0.0
  seconds: float = 0.0  # all of the stage, its page in the end included
  compile_seconds: float = 0.0  # of XLA, its cache included
  training_seconds: float = 0.0
  sampling_seconds: float = 0.0  # rollouts, or samples to learn from
  evaluation_seconds: float = 0.0
  drawing_seconds: float = 0.0  # of the report's page once the stage was finished
  programs: int = 0  # compiled
  cached: int = 0  # read from the cache of compiled programs instead
  selection: dict[str, int] | None = None  # why samples were kept or not
  learnt: dict[str, int] | None = None  # samples and written answers, and those left out
  devices: int = 1
  inputs: dict[str, str] = dataclasses.field(default_factory=dict)  # SHA-256 of what went in
  weights: str = ""  # SHA-256 of what came out

  def time(self, clock: Clock) -> None:
    """Enters what a stage's clock has counted."""
    self.seconds, self.compile_seconds = clock.total, clock.compile_seconds
    self.programs, self.cached = clock.programs, clock.cached
    for part, seconds in clock.seconds.items():
      setattr(self, f"{part}_seconds", seconds)

  def as_dict(self) -> dict[str, Any]:
    """Plain values, for JSON."""
    return dataclasses.asdict(self)


WALL_CLOCK = ("seconds", *(f"{part}_seconds" for part in PARTS), "programs", "cached")
"""Fields that a rerun may change."""


def count(
  entry: Entry,
  settings: Stage,
  model: ModelConfig,
  rows: Sequence[Mapping[str, Any]],
  sample_flops: float,
) -> None:
  """Enters the tokens and FLOPs of a stage's training; `rows` are its records in metrics.jsonl."""
  if isinstance(settings, GivenStage):
    return
  if isinstance(settings, ReinforceStage):
    sampled = int(sum(row["sampled_tokens"] for row in rows))
    entry.tokens_sampled += sampled
    entry.sample_flops += sampled * sample_flops
    entry.tokens_trained = int(sum(row.get("trained_tokens", 0) for row in rows))
    context = settings.rl.rollout.width / 4
  else:
    entry.tokens_trained = entry.steps * settings.batch * settings.length
    context = settings.length / 2
  entry.train_flops = entry.tokens_trained * train_flops(model, context, mtp=True)


def priced(entry: Mapping[str, Any], rate: float) -> dict[str, Any]:
  """An entry with its device-hours, and with what they cost where an hour has a price."""
  hours = entry["seconds"] * entry["devices"] / 3600
  return {**entry, "device_hours": hours, **({"cost": hours * rate} if rate else {})}


SUMMED = (
  "steps", "tokens_trained", "tokens_sampled", "train_flops", "sample_flops", "seconds",
  *(f"{part}_seconds" for part in PARTS), "programs", "cached", "device_hours", "cost",
)  # fmt: skip


def sums(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The run's total, as an entry: sums of what can be summed."""
  names = [name for name in SUMMED if all(name in entry for entry in entries)]
  return {"stage": "all", **{name: total(entries, name) for name in names}}


def of_any_version(entry: Mapping[str, Any]) -> dict[str, Any]:
  """An entry as it is written now. An earlier version's knows no hashes; a still earlier one's no
  parts but compiling, which its evaluation had a share in, and its `seconds` lack the evaluation.
  """
  if "seconds" not in entry:
    return dict(entry)
  entry = {"learnt": None, "devices": 1, "inputs": {}, "weights": "", **entry}
  if "programs" in entry:
    return entry
  seconds = entry["seconds"] + entry["evaluation_seconds"]
  unknown = {name: 0.0 for name in WALL_CLOCK if name.endswith("_seconds")}
  known = {"seconds": seconds, "compile_seconds": entry["compile_seconds"]}
  return {**entry, **unknown, **known, "programs": 0, "cached": 0}


def total(entries: Sequence[Mapping[str, Any]], name: str) -> float:
  """Sum of a field over stages."""
  return sum(entry[name] for entry in entries)


def seconds_by_part(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Where the stages' time went: PARTS, `rest` (restoring, data, tables) and `total`."""
  seconds = {part: total(entries, f"{part}_seconds") for part in PARTS}
  whole = total(entries, "seconds")
  return {**seconds, "rest": whole - sum(seconds.values()), "total": whole}
