"""A fixed set of samples as epochs of packed batches, for fine-tuning."""

import functools
from collections.abc import Sequence

from deepseek_jax.config import require
from deepseek_jax.data.document import Sample
from deepseek_jax.data.packing import best_fit, pack_rows
from deepseek_jax.tasks.task import stream
from deepseek_jax.types import Batch


class SampleBatches:
  """Batch `index` of fine-tuning: a pure function of the samples, the seed and the index.

  A `grain.sources.RandomAccessDataSource`. Every epoch holds each sample once, in an order of its
  own; the last batch of an epoch is filled up with rows of padding. Loss is on the answers only.
  """

  def __init__(
    self,
    samples: Sequence[Sample],
    batch: int,
    length: int,
    pad_id: int,
    seed: int,
    epochs: int = 1,
  ):
    """ConfigError if there is no sample, or one has more than `length` tokens."""
    require(len(samples) > 0, "there are no samples to learn from; the data is empty.")
    require(epochs > 0, f"epochs is {epochs}; it must be positive.")
    self._samples = samples
    self._batch, self._length, self._pad_id = batch, length, pad_id
    self._seed, self._epochs = seed, epochs
    self._epoch_rows = functools.lru_cache(maxsize=2)(self._make_rows)
    self.batches_per_epoch = -(-len(self._epoch_rows(0)) // batch)

  def __len__(self) -> int:
    return self._epochs * self.batches_per_epoch

  def __getitem__(self, index: int) -> Batch:
    if not 0 <= index < len(self):
      raise IndexError(f"batch {index} of {len(self)}")
    epoch, place = divmod(int(index), self.batches_per_epoch)
    rows = self._epoch_rows(epoch)[place * self._batch : (place + 1) * self._batch]
    rows = rows + [[]] * (self._batch - len(rows))
    return pack_rows(self._samples, rows, self._length, self._pad_id)

  def _make_rows(self, epoch: int) -> list[list[int]]:
    """The epoch's rows in its order: shuffled samples, best fit, shuffled rows."""
    rng = stream(self._seed, "samples", epoch)
    order = list(range(len(self._samples)))
    rng.shuffle(order)
    placed = best_fit([len(self._samples[i]) for i in order], self._length)
    rng.shuffle(placed)
    return [[order[i] for i in row] for row in placed]
