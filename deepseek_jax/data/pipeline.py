"""From a `DataConfig` to batches: source, shuffling, tokens, fill-in-the-middle, packing."""

import functools
from typing import Any

import grain

from deepseek_jax.by_name import dataset_path
from deepseek_jax.config import require
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.document import Document, Sample, make_sample
from deepseek_jax.data.fim import FillInTheMiddle
from deepseek_jax.data.problems import ProblemSource
from deepseek_jax.data.sources import Fields, JsonlSource, TextSource
from deepseek_jax.data.stdlib import StdlibSource
from deepseek_jax.data.stream import PackedStream
from deepseek_jax.data.tables import hf_source, parquet_source
from deepseek_jax.data.tokenizer import Tokenizer, load_tokenizer
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.types import Batch


def open_source(config: DataConfig) -> Any:
  """The corpus as a `grain.sources.RandomAccessDataSource` of documents; empty: ConfigError."""
  fields = Fields(config.text_field, config.prompt_field)
  source: Any
  match config.source:
    case "problems":
      task = load_task(config.task)
      source = ProblemSource(task, config.seed, config.split)  # type: ignore[arg-type]
    case "stdlib":
      source = StdlibSource(config.split)  # type: ignore[arg-type]
    case "text":
      source = TextSource(config.path)
    case "jsonl":
      source = JsonlSource(config.path, fields)
    case "parquet":
      source = parquet_source(config.path, fields)
    case _:
      source = hf_source(dataset_path(config.path), fields, config.split)
  require(len(source) > 0, f"the corpus is empty: {config.path or config.source} has no documents.")
  return source


def sample_dataset(
  config: DataConfig, tokenizer: Tokenizer, source: Any
) -> grain.MapDataset[Sample | None]:
  """The source's documents as tokens, in training order; None where a document has no text.

  Problems come in the order of their counter; other corpora are shuffled anew in every epoch.
  """
  documents = grain.MapDataset.source(source).seed(config.seed)
  if config.source != "problems":
    documents = documents.shuffle()
  documents = documents.repeat(config.epochs or None)
  samples = documents.map(
    functools.partial(_tokens, tokenizer, config.loss == "all", config.template)
  )
  if config.fim_rate > 0.0:
    fim = FillInTheMiddle.of(tokenizer, config.fim_rate)
    samples = samples.random_map(lambda sample, rng: sample and fim(sample, rng))
  return samples


def open_batches(
  config: DataConfig, tokenizer: Tokenizer | None = None, prefetch: int = 4
) -> grain.DatasetIterator[Batch]:
  """Batches of numpy arrays [B, T] for training, made in a thread of their own.

  Deterministic: the n-th batch depends on the configuration and the corpus only. The iterator's
  `get_state()` is a small JSON-able dictionary and `set_state(state)` continues behind the batch
  last taken, token for token. It ends after `config.epochs`, if those are set; `close()` ends its
  thread.

  Args:
    config: what to read.
    tokenizer: that of the model; None loads `config.tokenizer`.
    prefetch: batches made ahead, at least 1.

  Raises:
    ConfigError: the corpus cannot be read or is empty; from `next` if a document is bad.
  """
  tokenizer = load_tokenizer(config.tokenizer) if tokenizer is None else tokenizer
  source = open_source(config)
  stream = PackedStream(
    sample_dataset(config, tokenizer, source),
    batch=config.batch,
    length=config.length,
    packing=config.packing,
    pad_id=tokenizer.pad_id,
    epoch=len(source),
  )
  return iter(grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=prefetch))


def read_samples(config: DataConfig, tokenizer: Tokenizer | None = None) -> list[Sample]:
  """All samples of a finite corpus in its own order, prompts without loss: for `SampleBatches`.

  Raises:
    ConfigError: the corpus is empty or without end.
  """
  require(config.source != "problems", "data.source problems has no end; give fine-tuning a file.")
  tokenizer = load_tokenizer(config.tokenizer) if tokenizer is None else tokenizer
  source = open_source(config)
  documents = (source[i] for i in range(len(source)))
  samples = [make_sample(tokenizer, d, config.template) for d in documents if d.text]
  require(bool(samples), f"the corpus is empty: {config.path} has no text.")
  return samples


def _tokens(
  tokenizer: Tokenizer, learn_prompt: bool, template: str, document: Document
) -> Sample | None:
  """The document's tokens, or None if it has no text."""
  if not document.text:
    return None
  sample = make_sample(tokenizer, document, template)
  return Sample(sample.tokens) if learn_prompt else sample
