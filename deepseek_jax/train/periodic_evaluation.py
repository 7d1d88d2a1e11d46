"""How often, and by what, a run is measured on held-out problems: `--config.evaluation`."""

import dataclasses
import math

from deepseek_jax.config import require


@dataclasses.dataclass(frozen=True)
class PeriodicEvaluation:
  """Before the first step, after every so many, and at the end. Nothing learnt depends on it."""

  every: int = 0  # steps; 0: never
  benchmark: str = ""  # a task, a file, a dataset; "": the held-out problems of the job's own task
  problems: int = 128  # at most, if a file has fewer
  samples: int = 8  # per problem, at a temperature above 0
  temperatures: tuple[float, ...] = (0.0, 1.0)  # 0: greedy, one sample
  max_new: int = 0  # tokens of an answer at most; 0: as many as a rollout's
  batch: int = 0  # answers sampled at a time; 0: engine_batch, or 256 in a job without one

  def __post_init__(self) -> None:
    for name in ("every", "max_new", "batch"):
      value = getattr(self, name)
      require(value >= 0, f"evaluation.{name} is {value}; it must not be negative.")
    for name in ("problems", "samples"):
      value = getattr(self, name)
      require(value > 0, f"evaluation.{name} is {value}; it must be positive.")
    each = self.temperatures
    require(
      bool(each) and len(set(each)) == len(each) and all(0 <= t < math.inf for t in each),
      f"evaluation.temperatures is {each}; give finite numbers that are not negative, each once.",
    )
