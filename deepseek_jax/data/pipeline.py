"""From a `DataConfig` to batches: source, shuffling, tokens, fill-in-the-middle, packing."""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import grain

from deepseek_jax.by_name import dataset_path
from deepseek_jax.config import require
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.dataset_files import find_dataset, find_files, find_split
from deepseek_jax.data.document import Document, Sample, make_sample, make_samples
from deepseek_jax.data.fim import FillInTheMiddle
from deepseek_jax.data.omissions import Omissions
from deepseek_jax.data.problems import ENDLESS, ProblemSource
from deepseek_jax.data.records import RecordError
from deepseek_jax.data.shards import DealtBatches, own_shards
from deepseek_jax.data.sources import Fields, JsonSource, TextSource, fingerprint
from deepseek_jax.data.stdlib import StdlibSource
from deepseek_jax.data.stream import PackedStream
from deepseek_jax.data.tables import TableSource
from deepseek_jax.data.tokenizer import Tokenizer, load_tokenizer
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.types import Batch


def open_source(config: DataConfig) -> Any:
  """The corpus as a `grain.sources.RandomAccessDataSource` of documents; empty: ConfigError."""
  source: Any
  if config.source == "problems":
    task, size = load_task(config.task), config.records or ENDLESS
    source = ProblemSource(task, config.seed, config.split, size)  # type: ignore[arg-type]
  elif config.source == "stdlib":
    source = StdlibSource(config.split)  # type: ignore[arg-type]
  else:
    files, fields = corpus_files(config), Fields(config.text_field, config.prompt_field)
    if config.source == "text":
      source = TextSource(files)
    elif config.source == "parquet" or files[0].suffix in (".arrow", ".parquet"):
      source = TableSource(files, fields)
    else:
      source = JsonSource(files, fields)
  require(len(source) > 0, f"the corpus is empty: {config.path or config.source} has no documents.")
  return source


def corpus_files(config: DataConfig) -> list[Path]:
  """The files that a corpus is read from, in their order; none of one that is made, not read."""
  match config.source:
    case "problems":
      return []
    case "stdlib":
      return StdlibSource(config.split).files  # type: ignore[arg-type]
    case "text":
      return find_files(config.path, (".txt", ".md"))
    case "jsonl":
      return find_split(config.path, (".jsonl",), config.split)
    case "parquet":
      return find_split(config.path, (".parquet",), config.split)
  return find_dataset(dataset_path(config.path), config.split)


def corpus_fingerprint(config: DataConfig) -> dict[str, Any]:
  """What tells whether a corpus is still the same; see `sources.fingerprint`."""
  files = corpus_files(config)
  root = StdlibSource(config.split).root if config.source == "stdlib" else None  # type: ignore[arg-type]
  return fingerprint(files, root or dataset_path(config.path))


class Learnable:
  """A source's samples; of records that cannot be learnt or are empty there are none."""

  def __init__(self, source: Any, omissions: Omissions, make: Callable[[Document], list[Sample]]):
    self._source, self._omissions, self._make = source, omissions, make

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> list[Sample]:
    try:
      document = self._source[index]
      if not document.empty:
        return self._make(document)
    except RecordError as error:
      self._omissions.add(self._source.where(index), str(error))
      return []
    if hasattr(self._source, "where"):
      self._omissions.add(self._source.where(index), "has no text")
    return []


def sample_dataset(
  config: DataConfig, tokenizer: Tokenizer, source: Any, omissions: Omissions
) -> grain.MapDataset[Sample | None]:
  """The source's documents as tokens, in training order; None where there is nothing to learn.

  Problems come in the order of their counter; other corpora are shuffled anew in every epoch.
  """
  learnable = Learnable(source, omissions, functools.partial(_whole, config, tokenizer))
  documents = grain.MapDataset.source(learnable).seed(config.seed)
  if config.source != "problems":
    documents = documents.shuffle()
  documents = documents.repeat(config.epochs or None)
  samples = documents.map(lambda found: found[0] if found else None)
  if config.fim_rate > 0.0:
    fim = FillInTheMiddle.of(tokenizer, config.fim_rate)
    samples = samples.random_map(lambda sample, rng: sample and fim(sample, rng))
  return samples


def open_batches(
  config: DataConfig,
  tokenizer: Tokenizer | None = None,
  prefetch: int = 4,
  rows: Collection[int] | None = None,
) -> grain.DatasetIterator[Batch] | DealtBatches:
  """Batches of numpy arrays [B, T] for training, made in a thread of their own.

  Deterministic: the n-th batch depends on the configuration and the corpus only. The iterator's
  `get_state()` is a small JSON-able dictionary and `set_state(state)` continues behind the batch
  last taken, token for token. It ends after `config.epochs`, if those are set; `close()` ends its
  thread.

  Args:
    config: what to read.
    tokenizer: that of the model; None loads `config.tokenizer`.
    prefetch: batches made ahead, at least 1.
    rows: of a batch, which this process needs; with `config.shards` the others may hold nothing.

  Raises:
    ConfigError: the corpus cannot be read or is empty; from `next` if no document is any good.
      Records that cannot be read are left out, and told.
  """
  tokenizer = load_tokenizer(config.tokenizer) if tokenizer is None else tokenizer
  source = open_source(config)
  omissions = Omissions(config.path or config.source)
  documents = sample_dataset(config, tokenizer, source, omissions)

  def stream(documents: grain.MapDataset[Sample | None]) -> grain.DatasetIterator[Batch]:
    packed = PackedStream(
      documents,
      batch=config.batch // config.shards,
      length=config.length,
      packing=config.packing,
      pad_id=tokenizer.pad_id,
      epoch=len(source),
      nothing=omissions.nothing_left,
    )
    return iter(grain.experimental.ThreadPrefetchIterDataset(packed, prefetch_buffer_size=prefetch))

  if config.shards == 1:
    return stream(documents)
  own = own_shards(range(config.batch) if rows is None else rows, config.batch, config.shards)
  streams = {number: stream(documents[number :: config.shards]) for number in own}
  return DealtBatches(streams, config.batch, config.length, config.shards)


def read_samples(config: DataConfig, tokenizer: Tokenizer | None = None) -> list[Sample]:
  """All samples of a finite corpus in its own order, prompts without loss: for `SampleBatches`.

  Records that cannot be read, have no text, or are longer than a row are left out, and told.

  Raises:
    ConfigError: the corpus is without end, or nothing of it is left.
  """
  require(
    config.source != "problems" or config.records > 0,
    "data.source problems has no end; give fine-tuning data.records of them, or a file.",
  )
  tokenizer = load_tokenizer(config.tokenizer) if tokenizer is None else tokenizer
  source = open_source(config)
  omissions = Omissions(config.path or config.source)
  make = functools.partial(make_samples, tokenizer, form=config.template)
  learnable = Learnable(source, omissions, make)
  samples = that_fit(_placed(source, learnable), config.length, omissions)
  omissions.total(len(samples) + len(omissions))
  require(bool(samples), omissions.nothing_left())
  return samples


def _placed(source: Any, learnable: Learnable) -> Iterator[tuple[str, Sample]]:
  """All samples with the places of their records, and of answers in conversations."""
  for index in range(len(source)):
    where = source.where(index) if hasattr(source, "where") else f"document {index}"
    found = learnable[index]
    for number, sample in enumerate(found, start=1):
      yield where if len(found) == 1 else f"{where}, answer {number}", sample


def that_fit(
  samples: Iterable[tuple[str, Sample]], length: int, omissions: Omissions
) -> list[Sample]:
  """The samples, each given with its place, that have at most `length` tokens."""
  kept = []
  for where, sample in samples:
    if len(sample) <= length:
      kept.append(sample)
    else:
      why = (
        f"has {len(sample)} tokens, more than data.length, {length}; raise it to keep the record"
      )
      omissions.add(where, why)
  return kept


def _whole(config: DataConfig, tokenizer: Tokenizer, document: Document) -> list[Sample]:
  """The one sample of a document in running text."""
  require(
    config.loss == "all" or not document.messages,
    "data.loss is answer, and of a list of messages running text has one sample; set it to all, or "
    "learn every answer by experiments.sft.",
  )
  sample = make_sample(tokenizer, document, config.template)
  return [Sample(sample.tokens) if config.loss == "all" else sample]
