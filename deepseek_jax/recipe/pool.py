"""Several runs of one recipe, of different seeds, read as one: mean scores and paired gains.

The unit of an interval is a problem of a run: each run has models and held-out problems of its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from deepseek_jax.config import ConfigError, require
from deepseek_jax.evaluate.estimators import Estimate, paired_difference, share
from deepseek_jax.recipe.graph import GRAPH
from deepseek_jax.recipe.record import Record, read_record
from deepseek_jax.recipe.summary import CLAIMS

Solved = Mapping[str, np.ndarray]  # by decoding: each problem's share of right samples, all runs'


def pool(directories: Sequence[Path]) -> str:
  """The table of pass@1 and of gains over the runs in `directories`; ConfigError names one that is
  unfinished or was measured otherwise than the first.
  """
  require(len(directories) > 0, "There are no runs to pool; name at least one workdir.")
  runs = [_records(directory) for directory in directories]
  solved = {node.stage: _joined([run[node.stage] for run in runs], directories) for node in GRAPH}
  decodings = list(solved[GRAPH[0].stage])
  lines = [f"pass@1 over {len(runs)} runs", f"{'stage':<13}" + _row(decodings)]
  lines += [f"{s:<13}" + _row([_cell(share(by[d])) for d in decodings]) for s, by in solved.items()]
  lines += ["", "gains, paired over problems (*: the interval excludes zero)"]
  for after, before in CLAIMS:
    gains = [paired_difference(solved[after][d], solved[before][d]) for d in decodings]
    lines.append(f"{after + ' over ' + before:<30}" + _row([_gain(gain) for gain in gains]))
  return "\n".join(lines)


def _records(directory: Path) -> dict[str, Record]:
  for node in GRAPH:
    path = directory / "stages" / f"{node.stage}.json"
    if not path.exists():
      raise ConfigError(f"{directory} has not finished the stage {node.stage}; run it to its end.")
  return {n.stage: read_record(directory / "stages" / f"{n.stage}.json") for n in GRAPH}


def _joined(records: Sequence[Record], directories: Sequence[Path]) -> Solved:
  """One stage's problems of all runs, by decoding: the label of a protocol without its hash."""
  runs = [{label.split(" #")[0]: np.array(s) for label, s in r.solved.items()} for r in records]
  for run, directory in zip(runs, directories, strict=True):
    same = {d: len(s) for d, s in run.items()} == {d: len(s) for d, s in runs[0].items()}
    require(same, f"{directory} was not measured as {directories[0]} was; pool like with like.")
  return {decoding: np.concatenate([run[decoding] for run in runs]) for decoding in runs[0]}


def _row(cells: Sequence[str]) -> str:
  return "".join(f"{cell:<26}" for cell in cells).rstrip()


def _cell(estimate: Estimate) -> str:
  return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _gain(gain: Estimate) -> str:
  sure = "" if gain.low <= 0 <= gain.high else " *"
  return f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]{sure}"
