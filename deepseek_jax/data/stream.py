"""Running text into rows: documents one after another, cut where a row ends.

No token is lost and none repeated: what a row cannot hold begins the next one, across batches too.

  v3         a row is one segment with positions 0 .. T-1, so that tokens see the documents before
             their own in the row (2412.19437, section 4.1)
  documents  each document, or what of it stands in a row, is a segment with positions of its own
"""

from collections.abc import Callable
from typing import Any

import grain
import numpy as np

from deepseek_jax.config import ConfigError
from deepseek_jax.data.document import Sample
from deepseek_jax.data.packing import empty_batch
from deepseek_jax.types import Batch

PACKINGS = ("v3", "documents")


class PackedStream(grain.IterDataset[Batch]):
  """Batches [batch, length] of packed documents.

  `documents` yields a `Sample` per index, or None for a document without text. Behind the last
  document the last batch is padded. The iterator's state is a small JSON-able dictionary.
  """

  def __init__(
    self,
    documents: grain.MapDataset[Sample | None],
    batch: int,
    length: int,
    packing: str,
    pad_id: int,
    epoch: int,
    nothing: Callable[[], str] = lambda: "the corpus has no text in any document.",
  ):
    """`epoch` is the number of documents before they repeat: so many without text are an error,
    which `nothing` words."""
    super().__init__(documents)
    self.batch = batch
    self.length = length
    self.packing = packing
    self.pad_id = pad_id
    self.epoch = epoch
    self.nothing = nothing

  def __iter__(self) -> "PackedIterator":
    return PackedIterator(self)


class PackedIterator(grain.DatasetIterator[Batch]):
  """Walks the documents; its place is the next document and how much of it is used up."""

  def __init__(self, dataset: PackedStream):
    super().__init__()
    self._dataset = dataset
    self._documents = dataset.parents[0]
    self._document = 0
    self._offset = 0
    self._sample: Sample | None = None  # the document of `_document`, once read

  def get_state(self) -> dict[str, Any]:
    """The place from which the next batch is filled."""
    return {"document": self._document, "offset": self._offset}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a place that `get_state` returned."""
    self._document = int(state["document"])
    self._offset = int(state["offset"])
    self._sample = None

  def __next__(self) -> Batch:
    dataset = self._dataset
    batch = empty_batch(dataset.batch, dataset.length, dataset.pad_id)
    filled = [self._fill(batch, row) for row in range(dataset.batch)]
    if not any(filled):
      raise StopIteration
    if dataset.packing == "v3":
      _join_segments(batch)
    return batch

  def _fill(self, batch: Batch, row: int) -> bool:
    """Fills a row with documents as segments of their own; False if there was nothing left."""
    start, segment, length = 0, 0, self._dataset.length
    while start < length and (sample := self._current()) is not None:
      count = min(len(sample) - self._offset, length - start)
      end, upto = start + count, self._offset + count
      segment += 1
      batch.tokens_BT[row, start:end] = sample.tokens[self._offset : upto]
      batch.positions_BT[row, start:end] = np.arange(count)
      batch.segments_BT[row, start:end] = segment
      batch.loss_mask_BT[row, max(start, start + sample.prompt_length - self._offset) : end] = 1.0
      start, self._offset = end, upto
      if upto == len(sample):
        self._document, self._offset, self._sample = self._document + 1, 0, None
    return start > 0

  def _current(self) -> Sample | None:
    """The document that is being used up, or None behind the last."""
    empty = 0
    while self._sample is None:
      if self._document >= len(self._documents):
        return None
      self._sample = self._documents[self._document]
      if self._sample is None:
        self._document += 1
        empty += 1
        if empty >= self._dataset.epoch:
          raise ConfigError(self._dataset.nothing())
    return self._sample


def _join_segments(batch: Batch) -> None:
  """Makes each row one segment, in place; padding stays padding."""
  there_BT = batch.segments_BT > 0
  batch.segments_BT[...] = there_BT
  batch.positions_BT[...] = np.arange(batch.tokens_BT.shape[1]) * there_BT
