"""A corpus dealt to several streams, so that a process reads no more of it than its rows need.

Stream s of S has every S-th document from the s-th on, and fills the s-th part of a batch's rows.
What a batch holds hangs on S alone, not on how many processes there are; a process reads the
streams that have rows on its devices.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import grain
import jax
import numpy as np

from deepseek_jax.data.packing import empty_batch
from deepseek_jax.types import Batch


class DealtBatches(Iterator[Batch]):
  """Batches of all rows, of which those of other processes' streams hold nothing to be read.

  They count as full all the same: streams are without end, and padding would be counted.
  """

  def __init__(
    self,
    streams: Mapping[int, grain.DatasetIterator[Batch]],
    batch: int,
    length: int,
    shards: int,
  ):
    """`streams` are those of this process by number, each with `batch / shards` rows."""
    self._streams, self._shape = streams, (batch, length)
    self._rows = batch // shards

  def __next__(self) -> Batch:
    batch = empty_batch(*self._shape, pad_id=0)
    batch.segments_BT[...] = 1
    for number, stream in self._streams.items():
      rows = slice(number * self._rows, (number + 1) * self._rows)
      jax.tree.map(lambda whole, part, rows=rows: np.copyto(whole[rows], part), batch, next(stream))
    return batch

  def get_state(self) -> dict[str, Any]:
    """Where each stream of this process goes on, by its number."""
    return {str(number): stream.get_state() for number, stream in self._streams.items()}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes to a place that `get_state` returned, or several processes together."""
    for number, stream in self._streams.items():
      stream.set_state(state[str(number)])

  def close(self) -> None:
    """Ends the streams' threads."""
    for stream in self._streams.values():
      stream.close()


def own_shards(rows: Collection[int], batch: int, shards: int) -> list[int]:
  """The streams that fill any of a batch's `rows`."""
  return sorted({row * shards // batch for row in rows})
