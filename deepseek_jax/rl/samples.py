"""samples.jsonl: what is said while it is reinforced, a few completions of each logged iteration.

As in metrics.jsonl a record comes before the checkpoint of its step, and a run that resumes removes
those behind its checkpoint. The file has a largest size; beyond it the older half goes.
"""

import collections
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.paths import local_path
from deepseek_jax.rl.rollout import Rollout
from deepseek_jax.train.metrics import append_line, read_metrics
from deepseek_jax.train.workdir import write_atomically

_DIGITS = 6  # of rewards and advantages


@dataclasses.dataclass(frozen=True)
class SamplesConfig:
  """How much of what is sampled is kept to be read."""

  count: int = 4  # completions of each logged iteration; 0 keeps no file
  megabytes: float = 16.0  # the file's largest size

  def __post_init__(self) -> None:
    require(self.count >= 0, f"samples.count is {self.count}; it must not be negative.")
    require(
      0 < self.megabytes < math.inf,
      f"samples.megabytes is {self.megabytes}; it must be positive and finite.",
    )


class SampleLog:
  """The samples of a run."""

  def __init__(self, directory: str | Path, config: SamplesConfig):
    self.path, self.config = local_path(directory) / "samples.jsonl", config
    self._newest: collections.deque[tuple[int, Rollout, bool]] = collections.deque(maxlen=2)

  def resume(self, step: int) -> None:
    """Removes what was said behind `step`, and a line that a kill cut short."""
    if self.path.exists():
      self._rewrite([r for r in read_metrics(self.path) if r["step"] <= step])

  def observe(self, step: int, rollout: Rollout, logged: bool) -> None:
    """Writes a rollout if its step is logged; else keeps it for `flush`, while it is new."""
    if logged:
      self.write(step, rollout)
    self._newest.append((step, rollout, logged))

  def flush(self, step: int) -> None:
    """Writes what was said at `step` and behind it and is not written.

    Of a run that stopped by what was measured at that step, and had sampled once more meanwhile.
    """
    for number, rollout, written in self._newest:
      if number >= step and not written:
        self.write(number, rollout)
    self._newest.clear()
    if self.path.exists():
      self._rewrite(sorted(read_metrics(self.path), key=lambda record: record["step"]))

  def write(self, step: int, rollout: Rollout) -> None:
    """Appends the first sample of each of the first problems, whatever became of them.

    Raises:
      ConfigError: the disk is full; the file is left as it was.
    """
    for record in _records(rollout, self.config.count):
      append_line(self.path, _line({"step": step, **record}))
    most = self.config.megabytes * 1e6
    if self.path.exists() and self.path.stat().st_size > most:
      self._rewrite(_newest(read_metrics(self.path), most / 2))

  def _rewrite(self, records: list[dict[str, Any]]) -> None:
    write_atomically(self.path, "".join(_line(r) + "\n" for r in records))


def _newest(records: list[dict[str, Any]], most: float) -> list[dict[str, Any]]:
  """The last records that have at most so many bytes together."""
  sizes = np.cumsum([len(_line(record).encode()) + 1 for record in reversed(records)])
  return records[len(records) - np.count_nonzero(sizes <= most) :]


def _line(record: dict[str, Any]) -> str:
  return json.dumps(record, ensure_ascii=False, allow_nan=False)


def _records(rollout: Rollout, count: int) -> list[dict[str, Any]]:
  """Prompt, text, the parts of the reward, what was learned from, and the advantage it came to.

  The reward is the parts' weighted sum, or 0 of a sample that was cut off where that is zeroed.
  """
  reward_BJ = rollout.advantages.reward_BJ
  groups, group = reward_BJ.shape
  records = []
  for b in range(min(count, groups)):
    one = rollout.completions[b * group]
    records.append(
      {
        "prompt": one.problem.prompt,
        "text": one.text,
        **({"turns": list(one.exchange)} if len(one.exchange) > 1 else {}),
        "tokens": one.sampled,
        "truncated": one.truncated,
        "parts": {n: _rounded(x_BJ[b, 0]) for n, x_BJ in rollout.rewards.parts.items()},
        "reward": _rounded(reward_BJ[b, 0]),
        "advantage": _rounded(rollout.advantages.advantage_BJ[b, 0]),
        "kept": bool(rollout.advantages.kept_BJ[b, 0]),
      }
    )
  return records


def _rounded(value: float) -> float:
  return round(float(value), _DIGITS)
