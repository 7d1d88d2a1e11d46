"""What every stage cost and what it was given: the run's book-keeping."""

import dataclasses
from typing import Any


@dataclasses.dataclass
class Entry:
  """One stage. FLOPs are counted from shapes (plan/flops.py), not measured."""

  stage: str
  model: str
  start: str | None
  source: str | None
  steps: int = 0
  tokens_trained: int = 0  # all tokens that training steps read
  tokens_sampled: int = 0  # new tokens, for rollouts or for training data
  train_flops: float = 0.0
  sample_flops: float = 0.0
  seconds: float = 0.0  # training and sampling, compilation included, all resumptions
  compile_seconds: float = 0.0  # of XLA, all processes of the run
  evaluation_seconds: float = 0.0
  selection: dict[str, int] | None = None  # why samples were kept or not

  def as_dict(self) -> dict[str, Any]:
    """Plain values, for JSON."""
    return dataclasses.asdict(self)


def total(entries: list[dict[str, Any]], name: str) -> float:
  """Sum of a field over stages."""
  return sum(entry[name] for entry in entries)


WALL_CLOCK = ("seconds", "compile_seconds", "evaluation_seconds")  # fields a rerun may change
