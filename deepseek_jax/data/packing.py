"""Whole samples into rows: best fit, each sample a segment of its own.

Samples in a row are hidden from one another, their positions count from 0, and prompts carry no
loss. For SFT data and sampled answers, which must not be cut; `stream.py` packs running text.
"""

import bisect
from collections.abc import Sequence
from typing import cast

import jax
import numpy as np

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.document import Sample
from deepseek_jax.types import Batch


def best_fit(lengths: Sequence[int], row_length: int) -> list[list[int]]:
  """Which samples share a row: best fit in order of falling length.

  Args:
    lengths: tokens of each sample, positive; equal lengths are placed in the order given.
    row_length: tokens of a row.

  Returns:
    For each row the indices of its samples, in the order in which they stand in it. Every sample
    occurs once. The number of rows depends on the lengths only, not on their order.

  Raises:
    ConfigError: a sample is longer than a row.
  """
  rows: list[list[int]] = []
  room: list[tuple[int, int]] = []  # (free tokens, row), sorted
  for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
    length = lengths[i]
    if length > row_length:
      raise ConfigError(
        f"sample {i} has {length} tokens, more than data.length, {row_length}; raise data.length."
      )
    fit = bisect.bisect_left(room, (length, -1))
    if fit < len(room):
      free, row = room.pop(fit)
    else:
      free, row = row_length, len(rows)
      rows.append([])
    rows[row].append(i)
    bisect.insort(room, (free - length, row))
  return rows


def pack_rows(
  samples: Sequence[Sample], rows: Sequence[Sequence[int]], length: int, pad_id: int
) -> Batch:
  """Lays samples out as `rows` says; an empty row is all padding. Arrays are [rows, length]."""
  batch = empty_batch(len(rows), length, pad_id)
  for r, row in enumerate(rows):
    start = 0
    for segment, i in enumerate(row, start=1):
      sample = samples[i]
      end = start + len(sample)
      batch.tokens_BT[r, start:end] = sample.tokens
      batch.positions_BT[r, start:end] = np.arange(end - start)
      batch.segments_BT[r, start:end] = segment
      batch.loss_mask_BT[r, start + sample.prompt_length : end] = 1.0
      start = end
  return batch


def pack_samples(
  samples: Sequence[Sample], length: int, pad_id: int, rows: int | None = None
) -> Batch:
  """Best-fit packing of all samples; `rows` pads the batch to that many rows.

  Raises:
    ConfigError: there is no sample, one is longer than a row, or `rows` are too few.
  """
  require(len(samples) > 0, "there are no samples to pack; the data is empty.")
  placed = best_fit([len(sample) for sample in samples], length)
  if rows is not None:
    require(
      len(placed) <= rows, f"the samples fill {len(placed)} rows, more than the {rows} given."
    )
    placed = placed + [[] for _ in range(rows - len(placed))]
  return pack_rows(samples, placed, length, pad_id)


def empty_batch(rows: int, length: int, pad_id: int) -> Batch:
  """A batch of numpy arrays that is all padding."""
  shape = (rows, length)
  return Batch(
    tokens_BT=_host(np.full(shape, pad_id, np.int32)),
    positions_BT=_host(np.zeros(shape, np.int32)),
    segments_BT=_host(np.zeros(shape, np.int32)),
    loss_mask_BT=_host(np.zeros(shape, np.float32)),
  )


def _host(array: np.ndarray) -> jax.Array:
  """A numpy array where `Batch` declares a jax one; a step takes either."""
  return cast(jax.Array, array)
