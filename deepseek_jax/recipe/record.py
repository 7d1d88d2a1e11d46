"""What a finished stage leaves for the stages after it and for the summary: one JSON file."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate.evaluation import Evaluation
from deepseek_jax.evaluate.figures import Figure
from deepseek_jax.evaluate.report import Exhibit, choose_exhibits
from deepseek_jax.evaluate.results import write_text
from deepseek_jax.recipe.ledger import of_any_version


@dataclasses.dataclass(frozen=True)
class Record:
  """A stage's figures, the problems behind them, some of its thoughts, and its ledger entry."""

  figures: list[Figure]
  solved: Mapping[str, list[float]]  # by protocol: each problem's share of right samples
  exhibits: list[Exhibit]
  entry: dict[str, Any]

  def write(self, path: Path) -> None:
    """Writes the record whole or not at all: the stage is finished once the file is there."""
    fields = {
      "figures": self.figures,
      "solved": dict(self.solved),
      "exhibits": [dataclasses.asdict(exhibit) for exhibit in self.exhibits],
      "entry": self.entry,
    }
    write_text(path, json.dumps(fields, ensure_ascii=False, indent=1) + "\n")


def read_record(path: Path) -> Record:
  """Reads what `Record.write` wrote; ConfigError if it is damaged."""
  try:
    fields = json.loads(path.read_text(encoding="utf-8"))
    exhibits = [Exhibit(**exhibit) for exhibit in fields["exhibits"]]
    entry = of_any_version(fields["entry"])
    return Record(fields["figures"], fields["solved"], exhibits, entry)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ConfigError(f"{path} cannot be read ({error}); delete it to redo the stage.") from error


def rollouts(directory: Path, stage: str) -> Path:
  """The file of what was said while a stage was reinforced; there is none of other stages."""
  return directory / "rollouts" / stage / "samples.jsonl"


def make_record(stage: str, evaluations: list[Evaluation], entry: dict[str, Any]) -> Record:
  """The record of a stage just evaluated; its thoughts are those of the last protocol."""
  solved = {e.protocol.label: np.round(e.correct_PJ.mean(axis=1), 6).tolist() for e in evaluations}
  figures = [figure for e in evaluations for figure in e.figures(stage)]
  return Record(figures, solved, choose_exhibits({stage: evaluations[-1]}), entry)
