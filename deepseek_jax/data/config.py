"""What a training job reads: the fields of `--config.data`."""

import dataclasses

from deepseek_jax.config import require
from deepseek_jax.data.stream import PACKINGS
from deepseek_jax.seeds import check_seed
from deepseek_jax.tasks.task import SPLITS

SOURCES = ("problems", "stdlib", "text", "jsonl", "parquet", "hf")
_WITH_PATH = SOURCES[2:]


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """A corpus, its tokenizer, and how it is packed into batches of `batch` rows of `length`."""

  source: str = "problems"
  path: str = ""  # of text, jsonl, parquet and hf
  task: str = "mini"  # of problems: see tasks.registry.load_task
  records: int = 0  # of problems: how many are drawn; 0: without end, which fine-tuning cannot take
  tokenizer: str = "word"  # word | byte | a directory
  batch: int = 12  # B
  length: int = 128  # T
  packing: str = "v3"  # v3 | documents: see stream.py
  loss: str = "all"  # all | answer: prompts carry no loss
  fim_rate: float = 0.0  # V3: 0.1
  epochs: int = 0  # 0: without end
  shards: int = 1  # streams of documents without end, each with its rows: see shards.py
  seed: int = 0
  split: str = "train"  # of problems, stdlib, and directories that name splits
  text_field: str = "text"  # of records: a text, or a list of messages as in `messages.py`
  prompt_field: str = ""  # of records that are not messages; empty: they have no prompt
  template: str = "plain"  # how prompts are put: turns | plain | one of tasks/templates.py

  def __post_init__(self) -> None:
    def one_of(name: str, allowed: tuple[str, ...]) -> None:
      value = getattr(self, name)
      require(value in allowed, f"data.{name} is {value!r}; use {', '.join(allowed)}.")

    one_of("source", SOURCES)
    one_of("packing", PACKINGS)
    one_of("loss", ("all", "answer"))
    if self.source in ("problems", "stdlib"):
      one_of("split", SPLITS)
    require(
      bool(self.path) == (self.source in _WITH_PATH),
      f"data.path is {self.path!r}; the source {self.source!r} "
      + ("needs a path." if self.source in _WITH_PATH else "takes none."),
    )
    for name in ("batch", "length", "shards"):
      value = getattr(self, name)
      require(value > 0, f"data.{name} is {value}; it must be positive.")
    check_seed("data.seed", self.seed)
    require(
      self.records >= 0 and (self.records == 0 or self.source == "problems"),
      f"data.records is {self.records}; it says how many problems are drawn, and is for the source "
      "problems alone.",
    )
    require(self.epochs >= 0, f"data.epochs is {self.epochs}; it must be 0 (endless) or more.")
    require(
      self.batch % self.shards == 0,
      f"data.batch is {self.batch}; it must divide by data.shards, {self.shards}.",
    )
    require(
      self.shards == 1 or self.epochs == 0,
      f"data.shards is {self.shards}, but data.epochs is {self.epochs}, and they would not end "
      "together; set one to its default.",
    )
    require(
      0.0 <= self.fim_rate <= 1.0,
      f"data.fim_rate is {self.fim_rate}; it must be between 0 and 1.",
    )
    require(
      self.fim_rate == 0.0 or self.loss == "all",
      "data.fim_rate rearranges prompts into the text; set data.loss to all.",
    )
