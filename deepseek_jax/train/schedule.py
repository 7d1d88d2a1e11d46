"""Schedules: pure functions of Python integers, evaluated on the host.

Their values enter a compiled step as scalars, so nothing recompiles, and the token counts they are
read from are Python integers, which do not overflow at 14.8 trillion.

`V3Schedule` holds the published recipe (2412.19437, section 4.2) as its defaults. Two things are
not published: the shape of the batch ramp, taken to be linear in tokens, and when the warm-up's
first step is, taken to be rate peak / warmup_steps. `CosineSchedule` has the same four knobs by
fraction of a run, for small models.
"""

import dataclasses
import math

from deepseek_jax.config import require

TRILLION = 1_000_000_000_000
BILLION = 1_000_000_000


@dataclasses.dataclass(frozen=True)
class Scheduled:
  """What a schedule says about one step."""

  learning_rate: float
  bias_speed: float
  mtp_weight: float
  sequences: int | None  # of the global batch; None: as many as the run is configured for


@dataclasses.dataclass(frozen=True)
class V3Schedule:
  """V3's pre-training: all spans in tokens but for the warm-up."""

  peak_rate: float = 2.2e-4
  warmup_steps: int = 2000
  constant_until: int = 10 * TRILLION
  cosine_until: int = 14_300 * BILLION
  cosine_rate: float = 2.2e-5  # at the end of the cosine, and of the first tail
  first_tail_until: int = 14_633 * BILLION
  second_tail_rate: float = 7.3e-6  # to the end, at 14.8T
  first_sequences: int = 3072
  last_sequences: int = 15_360
  ramp_until: int = 469 * BILLION
  bias_speed: float = 1e-3
  bias_until: int = 14_300 * BILLION  # 0 after that
  first_mtp_weight: float = 0.3
  mtp_until: int = 10 * TRILLION
  last_mtp_weight: float = 0.1

  def __post_init__(self) -> None:
    order = (0, self.constant_until, self.cosine_until, self.first_tail_until)
    require(
      list(order) == sorted(order),
      "schedule.constant_until, cosine_until and first_tail_until must not decrease.",
    )
    require(self.first_sequences > 0, "schedule.first_sequences must be positive.")
    rates = ("peak_rate", "cosine_rate", "second_tail_rate", "bias_speed")
    for name in (*rates, "first_mtp_weight", "last_mtp_weight", "warmup_steps"):
      check_weight(f"schedule.{name}", getattr(self, name))

  def at(self, step: int, tokens: int, total_steps: int) -> Scheduled:
    """Values for the update after `step` updates and `tokens` tokens."""
    del total_steps  # the recipe is told in tokens
    grown = min(1.0, tokens / self.ramp_until) if self.ramp_until else 1.0
    sequences = self.first_sequences + grown * (self.last_sequences - self.first_sequences)
    return Scheduled(
      learning_rate=self._rate(step, tokens),
      bias_speed=self.bias_speed if tokens < self.bias_until else 0.0,
      mtp_weight=self.first_mtp_weight if tokens < self.mtp_until else self.last_mtp_weight,
      sequences=round(sequences),
    )

  def _rate(self, step: int, tokens: int) -> float:
    if step < self.warmup_steps:
      return self.peak_rate * (step + 1) / self.warmup_steps
    if tokens < self.constant_until:
      return self.peak_rate
    if tokens < self.cosine_until:
      done = (tokens - self.constant_until) / (self.cosine_until - self.constant_until)
      return cosine(done, self.peak_rate, self.cosine_rate)
    return self.cosine_rate if tokens < self.first_tail_until else self.second_tail_rate


@dataclasses.dataclass(frozen=True)
class CosineSchedule:
  """Linear warm-up, then a cosine to the last step; bias and MTP switch at a fraction of the run.

  The defaults for the switches are V3's: 10T, 14.3T of 14.8T tokens.
  """

  peak: float
  warmup: int = 50  # steps
  final: float = 0.1  # of the peak, at the last step
  speed: float = 1e-3  # of the router bias
  still_after: float = 0.966  # of the run: no bias movement from there
  mtp: tuple[float, ...] = (0.3, 0.1)  # MTP weight before and after
  mtp_after: float = 0.676

  def __post_init__(self) -> None:
    for name in ("peak", "warmup", "final", "speed"):
      check_weight(f"schedule.{name}", getattr(self, name))
    for name in ("still_after", "mtp_after"):
      value = getattr(self, name)
      require(
        0 <= value <= 1, f"schedule.{name} is {value}; it must be a share of the run, 0 to 1."
      )
    require(len(self.mtp) == 2, f"schedule.mtp is {self.mtp}; it must hold two weights.")
    for value in self.mtp:
      check_weight("a weight of schedule.mtp", value)

  def at(self, step: int, tokens: int, total_steps: int) -> Scheduled:
    """Values for the update after `step` of `total_steps` updates."""
    del tokens
    done = step / max(1, total_steps)
    return Scheduled(
      learning_rate=warmup_cosine(step, total_steps, self.peak, self.warmup, self.final),
      bias_speed=self.speed if done < self.still_after else 0.0,
      mtp_weight=self.mtp[0] if done < self.mtp_after else self.mtp[1],
      sequences=None,
    )


Schedule = V3Schedule | CosineSchedule


def check_weight(name: str, value: float) -> None:
  """ConfigError unless a rate or weight is a finite number that is not negative."""
  require(
    0 <= value < math.inf, f"{name} is {value}; it must be a finite number that is not negative."
  )


def warmup_cosine(step: int, total: int, peak: float, warmup: int, final: float) -> float:
  """Rate of update `step`, 0 the first: `peak` after the warm-up, `final` * `peak` at the end."""
  if step < warmup:
    return peak * (step + 1) / warmup
  done = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
  return cosine(done, peak, final * peak)


def cosine(done: float, start: float, end: float) -> float:
  """Half a cosine from `start` at done = 0 to `end` at done = 1."""
  return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


def micro_batches(sequences: int | None, size: int, most: int) -> int:
  """How many micro-batches of `size` sequences make a batch of about `sequences`: 1 to `most`."""
  if sequences is None:
    return most
  return max(1, min(most, round(sequences / size)))
