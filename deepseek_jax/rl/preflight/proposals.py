"""What a preflight proposes: fields of the config with other values, and the figures for them."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deepseek_jax.evaluate.estimators import differing_at_k, differing_beyond
from deepseek_jax.rl.preflight.trial import Trial
from deepseek_jax.rl.rollout import RolloutConfig

GROUPS = (2, 4, 8, 16, 32, 64)
_USEFUL = 0.5  # of the groups: half of them are aimed at
_GRAIN = 16  # tokens that max_new is a multiple of
_GROWTH = 2  # times the longest usual sample: room for thoughts that grow while they are reinforced


@dataclasses.dataclass(frozen=True)
class Proposal:
  """Fields of `config.rl.rollout` to set, if any, and why."""

  reason: str
  fields: dict[str, int] = dataclasses.field(default_factory=dict)

  @property
  def line(self) -> str:
    """As it can be put on the command line."""
    flags = " ".join(f"--config.rl.rollout.{name}={value}" for name, value in self.fields.items())
    return f"{flags}: {self.reason}" if flags else self.reason

  def as_json(self) -> dict[str, Any]:
    """For JSON."""
    return {"fields": {f"rl.rollout.{n}": v for n, v in self.fields.items()}, "reason": self.reason}


def propose(trial: Trial, rollout: RolloutConfig, max_context: int) -> list[Proposal]:
  """All proposals; none where there is nothing to be said for another value."""
  return [*_lengths(trial, rollout, max_context), *_groups(trial, rollout), *_difficulty(trial)]


def useful_groups(correct_PJ: np.ndarray, sizes: Sequence[int] = GROUPS) -> dict[int, float]:
  """The share of groups of each size that is to be expected to differ in right and wrong.

  Without bias up to the J samples there are (`differing_at_k`), above them extrapolated
  (`differing_beyond`), which partial credit cannot be: such sizes are left out.
  """
  sampled = correct_PJ.shape[1]
  found = {k: float(differing_at_k(correct_PJ, k).mean()) for k in sizes if k <= sampled}
  if np.isin(correct_PJ, (0, 1)).all():
    found |= {k: differing_beyond(correct_PJ, k) for k in sizes if k > sampled}
  return found


def _lengths(trial: Trial, rollout: RolloutConfig, max_context: int) -> Iterator[Proposal]:
  """max_new from the quantiles of the lengths, and width with it."""
  cut_PJ = trial.truncated_PJ > 0
  cut, now = float(cut_PJ.mean()), rollout.max_new
  if cut > 0.2:
    if cut_PJ.all():
      return  # nothing is known of where they would end
    more = min(now, max_context - rollout.width)
    longest = int(trial.lengths_PJ[~cut_PJ].max())
    reason = (
      f"{100 * cut:.0f} % of the samples are cut off at {now}; the others have up to {longest}"
    )
    if more > 0:
      yield Proposal(reason, {"max_new": now + more, "width": rollout.width + more})
    else:
      yield Proposal(f"{reason}, and model.max_context, {max_context}, leaves no more room")
    return
  usual = int(np.quantile(trial.lengths_PJ, 0.99, method="higher"))
  wanted = _GRAIN * math.ceil(_GROWTH * usual / _GRAIN)
  if cut == 0 and 2 * wanted <= now:
    yield Proposal(
      f"99 % of the samples end within {usual} tokens; that leaves them room for {_GROWTH} times "
      f"as many, and shorter rows take less memory",
      {"max_new": wanted, "width": rollout.width - now + wanted},
    )


def _groups(trial: Trial, rollout: RolloutConfig) -> Iterator[Proposal]:
  """group and prompts from the share of useful groups."""
  if not trial.correct_PJ.any():
    return
  sampled = trial.correct_PJ.shape[1]
  shares = useful_groups(trial.correct_PJ, sorted({*GROUPS, sampled}))
  told = ", ".join(
    f"{'~' * (size > sampled)}{rollout.prompts * share:.1f} with group {size}"
    for size, share in shares.items()
  )
  yield Proposal(
    f"useful groups to be expected of {rollout.prompts}, by right and wrong alone: {told} "
    f"(unbiased up to group {sampled}; ~ is extrapolated with Beta distributed pass rates)"
  )
  now = shares[sampled]
  if now >= _USEFUL:
    return
  larger = next((k for k, share in shares.items() if k > sampled and share >= _USEFUL), None)
  if larger is not None:
    yield Proposal(
      f"~{100 * shares[larger]:.0f} % of the groups would be useful, now {100 * now:.0f} %; an "
      f"iteration would be {larger / sampled:.3g} times as long",
      {"group": larger},
    )
  if now > 0:
    prompts = math.ceil(_USEFUL * rollout.prompts / now)
    instead = "instead of a larger group: " if larger is not None else ""
    yield Proposal(
      f"{instead}{_USEFUL * rollout.prompts:g} groups would be useful, half of {rollout.prompts}, "
      f"now {rollout.prompts * now:.1f}; an iteration would be {prompts / rollout.prompts:.3g} "
      "times as long",
      {"prompts": prompts},
    )


def _difficulty(trial: Trial) -> Iterator[Proposal]:
  """Whether the task is too hard or too easy for the model."""
  rates_P = trial.correct_PJ.mean(axis=1)
  count, samples = trial.correct_PJ.shape
  never, always = int((rates_P == 0).sum()), int((rates_P == 1).sum())
  if never == count:
    yield Proposal(
      f"pass@1 is 0 of {count * samples}: reinforcement has nothing to learn from; begin with SFT "
      "(experiments.sft, then --config.init=ITS_WORKDIR) or an easier --config.task"
    )
  elif never > count / 2:
    yield Proposal(
      f"{never} of {count} problems were never solved in {samples} samples: mix in easier ones, or "
      "begin with SFT"
    )
  elif always > count / 2:
    yield Proposal(
      f"{always} of {count} problems were solved by all of {samples} samples: take harder ones"
    )
