"""What a reward model learns from: the fields of `--config.data`."""

import dataclasses

from deepseek_jax.config import require
from deepseek_jax.seeds import check_seed

SOURCES = ("problems", "jsonl", "parquet", "hf")


@dataclasses.dataclass(frozen=True)
class PreferenceConfig:
  """Pairs and labels, their tokenizer, and how they are laid out: one text a row.

  `batch` rows make one step; a pair takes two of them, a label one. Rows are as long as the longest
  text in the batch wants, by doubling from 32, and at most `length`.
  """

  source: str = "problems"
  path: str = ""  # of jsonl, parquet and hf
  task: str = "mini"  # of problems: see tasks.registry.load_task
  records: int = 4096  # of problems: how many are made
  labels: float = 0.0  # of problems: the share of them that are single labels
  tokenizer: str = "word"  # word | byte | a directory
  batch: int = 32  # B
  length: int = 256  # T
  epochs: int = 1  # R1: one
  seed: int = 0
  split: str = "train"  # of directories that name splits
  heldout: float = 0.05  # share kept for measuring: of a file's prompts; of problems, as many anew
  template: str = "plain"  # how prompts are put: turns | plain | one of tasks/templates.py

  def __post_init__(self) -> None:
    require(self.source in SOURCES, f"data.source is {self.source!r}; use {', '.join(SOURCES)}.")
    made = self.source == "problems"
    require(
      bool(self.path) != made,
      f"data.path is {self.path!r}; the source {self.source!r} "
      + ("takes none." if made else "needs a path."),
    )
    for name in ("records", "length", "epochs"):
      value = getattr(self, name)
      require(value > 0, f"data.{name} is {value}; it must be positive.")
    require(self.batch >= 2, f"data.batch is {self.batch}; a pair alone takes 2 rows.")
    check_seed("data.seed", self.seed)
    for name in ("labels", "heldout"):
      value = getattr(self, name)
      require(0 <= value <= 1, f"data.{name} is {value}; it must be a share, 0 to 1.")
    require(self.heldout < 1, f"data.heldout is {self.heldout}; leave some to learn from.")
