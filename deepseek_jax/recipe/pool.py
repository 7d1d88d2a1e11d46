"""Several runs of one recipe, of different seeds, read as one: mean scores and paired gains.

All runs answer the same held-out problems, so a problem counts once, with its mean over the runs.
Such an interval says nothing of how runs differ; hence the number of runs that alone show a gain.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deepseek_jax.config import ConfigError, require
from deepseek_jax.evaluate.estimators import Estimate, paired_difference, share
from deepseek_jax.recipe.graph import STAGES
from deepseek_jax.recipe.record import Record, read_record
from deepseek_jax.recipe.summary import CLAIMS
from deepseek_jax.train.workdir import read_config

MANNERS = ("pass@8", "length", "waits", "with_check", "language_share", "truncated")

Solved = Mapping[str, np.ndarray]  # by decoding: [runs, problems], shares of right samples


def pool(directories: Sequence[Path]) -> str:
  """The tables of pass@1, of manners and of gains over the runs in `directories`; ConfigError names
  one that is unfinished or was measured otherwise than the first.
  """
  require(len(directories) > 0, "There are no runs to pool; name at least one workdir.")
  runs = [_records(directory) for directory in directories]
  for run, directory in zip(runs, directories, strict=True):
    same = list(run) == list(runs[0])
    require(same, f"{directory} has other stages than {directories[0]}; pool like with like.")
  solved = {stage: _joined([run[stage] for run in runs], directories) for stage in runs[0]}
  decodings = list(next(iter(solved.values())))
  heads, benchmark = _heads(decodings)
  lines = [f"pass@1{benchmark} over {len(runs)} runs", f"{'stage':<13}" + _row(heads)]
  for stage, by in solved.items():
    lines.append(f"{stage:<13}" + _row([_cell(share(by[d].mean(axis=0))) for d in decodings]))
  lines += ["", *_manners(runs, decodings[-1])]
  lines += ["", "gains, paired over problems; how many runs alone exclude zero on the same side"]
  for after, before in CLAIMS:
    if after not in solved or before not in solved:
      continue
    gains = [_gain(solved[after][d], solved[before][d]) for d in decodings]
    lines.append(f"{after + ' over ' + before:<30}" + _row(gains))
  return "\n".join(lines)


def _records(directory: Path) -> dict[str, Record]:
  config = read_config(directory) if (directory / "config.json").exists() else {}
  stages = [stage for stage in STAGES if config.get(stage, {}) is not None]
  for stage in stages:
    path = directory / "stages" / f"{stage}.json"
    if not path.exists():
      raise ConfigError(f"{directory} has not finished the stage {stage}; run it to its end.")
  return {stage: read_record(directory / "stages" / f"{stage}.json") for stage in stages}


def _joined(records: Sequence[Record], directories: Sequence[Path]) -> Solved:
  """One stage's problems in all runs, by decoding: the label of a protocol without its hash."""
  for record, directory in zip(records, directories, strict=True):
    same = list(record.solved) == list(records[0].solved)
    require(same, f"{directory} was not measured as {directories[0]} was; pool like with like.")
  return {
    label.split(" #")[0]: np.array([record.solved[label] for record in records])
    for label in records[0].solved
  }


def _manners(runs: Sequence[Mapping[str, Record]], decoding: str) -> list[str]:
  """What the completions of every stage are like, in the mean over runs, and pass@1 of each run."""
  head = "".join(f"{name:>16}" for name in MANNERS)
  lines = [f"{decoding}: means over runs, then pass@1 of each", f"{'stage':<13}{head}"]
  for stage in runs[0]:
    values: dict[str, list[float]] = {}
    for run in runs:
      for f in run[stage].figures:
        if f["benchmark"].startswith(f"{decoding} #"):
          values.setdefault(f["metric"], []).append(f["value"])
    means = "".join(f"{np.mean(values.get(name, np.nan)):>16.3f}" for name in MANNERS)
    alone = "  ".join(f"{value:.3f}" for value in values.get("pass@1", ()))
    lines.append(f"{stage:<13}{means}   {alone}".rstrip())
  return lines


def _heads(decodings: Sequence[str]) -> tuple[Sequence[str], str]:
  """The columns' heads, and the benchmark, which is left out of them where it is one for all."""
  benchmarks, ways = zip(*(decoding.rsplit(" ", 1) for decoding in decodings))
  return (ways, f" of {benchmarks[0]}") if len(set(benchmarks)) == 1 else (decodings, "")


def _row(cells: Sequence[str]) -> str:
  return "".join(f"{cell:<30}" for cell in cells).rstrip()


def _cell(estimate: Estimate) -> str:
  return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _gain(after_RP: np.ndarray, before_RP: np.ndarray) -> str:
  gain = paired_difference(after_RP.mean(axis=0), before_RP.mean(axis=0))
  alone = [paired_difference(a, b) for a, b in zip(after_RP, before_RP, strict=True)]
  side = np.sign(gain.value)
  sure = sum(one.low > 0 if side > 0 else one.high < 0 for one in alone)
  return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] {sure}/{len(alone)}"
