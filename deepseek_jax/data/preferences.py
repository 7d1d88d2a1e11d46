"""Pairs and labels in tokens, from files and from procedural problems."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.by_name import dataset_path
from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.asking import TURNS, learn, learn_turns
from deepseek_jax.data.conversation import has_turns
from deepseek_jax.data.dataset_files import find_dataset, find_split
from deepseek_jax.data.omissions import Omissions
from deepseek_jax.data.preference_config import PreferenceConfig
from deepseek_jax.data.preference_records import Example, Question, read_example
from deepseek_jax.data.records import RecordError
from deepseek_jax.data.sources import JsonSource, fingerprint
from deepseek_jax.data.tables import read_rows
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.tasks.solutions import write_solution
from deepseek_jax.tasks.task import Split, Task, fraction, stream

_DRAWS = 12  # solutions of a problem, of which a right and a wrong one are taken


@dataclasses.dataclass(frozen=True)
class Preference:
  """A pair, the chosen text and the rejected one, or one text with its label."""

  texts: tuple[Sequence[int], ...]  # tokens of prompt, answer and end
  label: float | None  # 0 or 1; None: a pair
  prompt: str  # by which the same question is known again


def text_tokens(tokenizer: Tokenizer, question: Question, answer: str, form: str) -> list[int]:
  """The tokens of a question with its answer and its end, whose last is rewarded.

  Training and scoring make them alike, and by `asking.learn`. `form` is how a question is put that
  is a text; a conversation is put in turns, or without them must be one question, maybe behind a
  system text.

  Raises:
    RecordError: the tokenizer has no form for this conversation.
    ConfigError: it cannot read the text.
  """
  if isinstance(question, str):
    return learn(tokenizer, question, answer, form)[0]
  if form == TURNS:
    return learn_turns(tokenizer, question, answer)[0]
  roles = [message["role"] for message in question]
  if roles not in (["user"], ["system", "user"]):
    why = "data.template is not turns" if has_turns(tokenizer) else "the tokenizer has no turns"
    raise RecordError(f"is a conversation of several turns, and {why}.")
  asked = "\n\n".join(message["content"] for message in question)
  return learn(tokenizer, asked, answer, form)[0]


def read_preferences(
  config: PreferenceConfig, tokenizer: Tokenizer
) -> tuple[list[Preference], list[Preference]]:
  """What is learnt from, and what is held out: never the same prompt in both.

  Records that cannot be read, are no pair and no label, or have a text longer than `length` are
  left out, and told by file and line.

  Raises:
    ConfigError: the source cannot be read, or nothing of it is left.
  """
  if config.source == "problems":
    task = load_task(config.task)
    held = round(config.records * config.heldout)
    return (
      list(_made(config, task, "train", config.records, tokenizer)),
      list(_made(config, task, "heldout", held, tokenizer)),
    )
  omissions, count = Omissions(config.path), 0
  kept: tuple[list[Preference], list[Preference]] = ([], [])
  for where, read in _records(config):
    count += 1
    try:
      one = _preference(read_example(read()), tokenizer, config)
    except ConfigError as error:  # RecordError, or what the tokenizer or its template says
      omissions.add(where, str(error))
      continue
    kept[fraction(config.seed, "heldout", one.prompt) < config.heldout].append(one)
  omissions.total(count)
  require(bool(kept[0] or kept[1]), omissions.nothing_left())
  require(bool(kept[0]), f"all of {config.path} is held out; make data.heldout less.")
  return kept


def preference_files(config: PreferenceConfig) -> list[Path]:
  """The files that are read, in their order; none of problems."""
  match config.source:
    case "problems":
      return []
    case "jsonl":
      return find_split(config.path, (".jsonl",), config.split)
    case "parquet":
      return find_split(config.path, (".parquet",), config.split)
  return find_dataset(dataset_path(config.path), config.split)


def preference_fingerprint(config: PreferenceConfig) -> dict[str, Any]:
  """What tells whether the files are still the same; see `sources.fingerprint`."""
  return fingerprint(preference_files(config), dataset_path(config.path))


def _records(config: PreferenceConfig) -> Iterator[tuple[str, Any]]:
  """Each record's place, and a function that reads it."""
  for file in preference_files(config):
    if file.suffix in (".parquet", ".arrow"):
      for number, row in enumerate(read_rows(file), start=1):
        yield f"{file}, row {number}", lambda row=row: row
    else:
      source = JsonSource([file])
      for index in range(len(source)):
        yield source.where(index), lambda index=index, source=source: source.record(index)


def _preference(example: Example, tokenizer: Tokenizer, config: PreferenceConfig) -> Preference:
  """The example in tokens; RecordError if a text is too long."""
  question = example.question
  texts = tuple(
    text_tokens(tokenizer, question, answer, config.template) for answer in example.answers
  )
  longest = max(map(len, texts))
  if longest > config.length:
    raise RecordError(
      f"has {longest} tokens, more than data.length, {config.length}; raise it to keep the record."
    )
  if len(texts) > 1 and texts[0] == texts[1]:
    raise RecordError("has chosen and rejected texts of the same tokens.")
  prompt = question if isinstance(question, str) else "\n".join(m["content"] for m in question)
  return Preference(texts, example.label, prompt)


def _made(
  config: PreferenceConfig, task: Task, split: Split, count: int, tokenizer: Tokenizer
) -> Iterator[Preference]:
  """`count` pairs and labels of a task's own solutions (`tasks.solutions`), right and wrong.

  Of a problem's solutions the right and the wrong one are taken that are nearest in length, lest
  length tell them apart, and of those the longest, whose work can be checked: of the mini's pairs a
  little more than a third are two guesses. A label is of one of the two. Problems without both are
  passed over, and so are those whose solutions are longer than a row.
  """
  index = 0
  for _ in range(count):
    while True:
      found = _right_and_wrong(task, split, index, config.seed)
      index += 1
      require(
        index < 100 * count,
        f"data.task {config.task!r} gives no right and wrong solutions of data.length tokens, "
        f"{config.length}; raise it, or name another task.",
      )
      if found is None:
        continue
      prompt, answers = found
      drawn = [fraction(config.seed, name, split, index) for name in ("kind", "label")]
      example = Example(prompt, answers)
      if drawn[0] < config.labels:
        label = int(drawn[1] < 0.5)
        example = Example(prompt, (answers[1 - label],), float(label))
      try:
        one = _preference(example, tokenizer, config)
      except RecordError:  # too long
        continue
      break
    yield one


def _right_and_wrong(
  task: Task, split: Split, index: int, seed: int
) -> tuple[str, tuple[str, str]] | None:
  """A problem's prompt with a right and a wrong solution, or None where the dice gave not both."""
  problem = task.sample(split, index, seed)
  rng = stream(seed, "preferences", split, index)
  drawn = [write_solution(problem, rng) for _ in range(_DRAWS)]
  right = [text for text in drawn if task.score(problem, text).correct == 1]
  wrong = [text for text in drawn if text not in right]

  def apart(pair: tuple[str, str]) -> tuple[int, int]:
    lengths = [len(text.split()) for text in pair]
    return abs(lengths[0] - lengths[1]), -sum(lengths)

  pairs: Iterable[tuple[str, str]] = ((r, w) for r in right for w in wrong)
  nearest = min(pairs, key=apart, default=None)
  # The space keeps prompt and solution apart for tokenizers that read characters.
  return None if nearest is None else (problem.prompt, (f" {nearest[0]}", f" {nearest[1]}"))
