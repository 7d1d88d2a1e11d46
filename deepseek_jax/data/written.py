"""Written answers of a file or a dataset, to be learnt beside what a model has sampled.

{"prompt": ..., "text": ...}     a question and its answer
{"messages": [...]}              a conversation that ends with the assistant's message
"""

import dataclasses
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepseek_jax.by_name import dataset_path
from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.asking import TURNS, learn, learn_turns
from deepseek_jax.data.conversation import Message
from deepseek_jax.data.dataset_files import find_dataset
from deepseek_jax.data.document import Sample
from deepseek_jax.data.omissions import Omissions
from deepseek_jax.data.preference_records import read_messages
from deepseek_jax.data.records import RecordError, read_records
from deepseek_jax.data.tables import read_rows
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.paths import local_path

_TABLES = (".parquet", ".arrow")


@dataclasses.dataclass(frozen=True)
class WrittenConfig:
  """Which records are read, and how many of them are learnt."""

  path: str = ""  # a file of JSON lines, a table, a dataset's directory, or org/name; "": none
  share: float = 0.0  # of all that is learnt; 0: every record once
  split: str = "train"  # of a dataset
  prompt_field: str = "prompt"
  text_field: str = "text"

  def __post_init__(self) -> None:
    require(0 <= self.share < 1, f"written.share is {self.share}; it must be in [0, 1).")
    require(
      bool(self.path) or not self.share,
      f"written.share is {self.share}, but there is no path; name a file.",
    )


def written_files(config: WrittenConfig) -> list[Path]:
  """The files of the records, in their order; ConfigError if there are none."""
  root = local_path(config.path)
  if root.suffix in (*_TABLES, ".json", ".jsonl") or root.is_file():
    require(root.is_file(), f"{config.path} does not exist; name a file or a dataset.")
    return [root]
  return find_dataset(dataset_path(config.path), config.split)


def read_written(
  config: WrittenConfig, tokenizer: Tokenizer, form: str, length: int
) -> tuple[list[Sample], int]:
  """The records as tokens, prompts without loss, and how many there were.

  `form` is how a prompt is put (`asking.ask`). Records that cannot be read, are no answer, are not
  to be said in the tokenizer's words, or have more than `length` tokens are left out, and told.

  Raises:
    ConfigError: a file cannot be read, or nothing of it is left.
  """
  omissions, kept, count = Omissions(config.path), [], 0
  for where, record in _records(config):
    count += 1
    try:
      sample = _sample(record, config, tokenizer, form)
      if len(sample) > length:
        raise RecordError(f"has {len(sample)} tokens, more than the stage's length, {length}.")
      kept.append(sample)
    except ConfigError as error:  # RecordError, or what the tokenizer or its template says
      omissions.add(where, str(error))
  omissions.total(count)
  require(bool(kept), omissions.nothing_left() if count else f"{config.path} has no records.")
  return kept, count


def some_of(samples: list[Sample], count: int, seed: int) -> list[Sample]:
  """`count` of the samples, drawn by the seed, in their order; all, where there are not more."""
  if count >= len(samples):
    return samples
  chosen = random.Random(f"{seed}/written").sample(range(len(samples)), count)
  return [samples[i] for i in sorted(chosen)]


def _records(config: WrittenConfig) -> Iterator[tuple[str, Any]]:
  """Each record with its place."""
  for file in written_files(config):
    if file.suffix in _TABLES:
      for number, row in enumerate(read_rows(file), start=1):
        yield f"{file}, row {number}", row
    else:
      yield from read_records(file)


def _sample(record: Any, config: WrittenConfig, tokenizer: Tokenizer, form: str) -> Sample:
  """A record's tokens; RecordError says what is wrong with one that has none."""
  if not isinstance(record, Mapping):
    raise RecordError("is not a record with fields.")
  if record.get("messages") is not None:
    *before, last = read_messages(record["messages"], "messages")
    return _turns(before, last, tokenizer, form)
  prompt, text = _text(record, config.prompt_field), _text(record, config.text_field)
  return Sample(*learn(tokenizer, prompt, text, form))


def _text(record: Mapping[str, Any], name: str) -> str:
  text = record.get(name)
  if not isinstance(text, str) or not text.strip():
    there = ", ".join(map(str, record))
    raise RecordError(f"has no text in field {name!r} and no messages (fields: {there}).")
  return text


def _turns(before: list[Message], last: Message, tokenizer: Tokenizer, form: str) -> Sample:
  """The tokens of a conversation's last answer."""
  if last["role"] != "assistant" or not last["content"].strip():
    raise RecordError("has messages that do not end with an answer of the assistant.")
  if form == TURNS:
    return Sample(*learn_turns(tokenizer, before, last["content"]))
  if [message["role"] for message in before] != ["user"]:
    raise RecordError("has messages that are not one question, and the prompts are not in turns.")
  return Sample(*learn(tokenizer, before[0]["content"], last["content"], form))
