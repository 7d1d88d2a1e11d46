"""Pairs and labels as epochs of batches, one text a row."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepseek_jax.config import require
from deepseek_jax.data.preferences import Preference
from deepseek_jax.tasks.task import stream
from deepseek_jax.types import PreferenceBatch

_NARROWEST = 32  # tokens of a row


def row_width(longest: int) -> int:
  """The smallest of 32, 64, 128, ... that is not below `longest`, so that shapes are few."""
  return _NARROWEST << (max(1, -(-longest // _NARROWEST)) - 1).bit_length()


def lay_out(
  texts: Sequence[Sequence[int]], rows: int, width: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Tokens, positions and segments [rows, width] of texts, one a row; further rows are padding."""
  tokens_BT = np.full((rows, width), pad_id, np.int32)
  positions_BT, segments_BT = np.zeros((2, rows, width), np.int32)
  for row, text in enumerate(texts):
    tokens_BT[row, : len(text)] = text
    positions_BT[row, : len(text)] = np.arange(len(text))
    segments_BT[row, : len(text)] = 1
  return tokens_BT, positions_BT, segments_BT


def preference_batch(
  preferences: Sequence[Preference], rows: int, width: int, pad_id: int
) -> PreferenceBatch:
  """One batch of numpy arrays: the chosen text of a pair stands right before the rejected one."""
  texts = [text for one in preferences for text in one.texts]
  chosen_B, judged_B, label_B = np.zeros((3, rows), np.float32)
  row = 0
  for one in preferences:
    if one.label is None:
      chosen_B[row] = 1
    else:
      judged_B[row], label_B[row] = 1, one.label
    row += len(one.texts)
  host: Any = (*lay_out(texts, rows, width, pad_id), chosen_B, judged_B, label_B)  # not jax's
  return PreferenceBatch(*host)


class PreferenceBatches:
  """Batch `index` of training: a pure function of the preferences, the seed and the index.

  Every epoch holds each of them once, in an order of its own; where the next does not fit, a batch
  ends with rows of padding.
  """

  def __init__(
    self,
    preferences: Sequence[Preference],
    batch: int,
    length: int,
    pad_id: int,
    seed: int,
    epochs: int = 1,
  ):
    """ConfigError if there is nothing to learn from. No text may be longer than `length`."""
    require(len(preferences) > 0, "there are no pairs and no labels to learn from.")
    self._preferences = preferences
    self._batch, self._length, self._pad_id = batch, length, pad_id
    self._seed = seed
    self._epoch = functools.lru_cache(maxsize=2)(self._cut)
    sizes = [len(self._epoch(epoch)) for epoch in range(epochs)]
    self._places = [(epoch, i) for epoch, size in enumerate(sizes) for i in range(size)]

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> PreferenceBatch:
    epoch, place = self._places[index]
    chosen = [self._preferences[i] for i in self._epoch(epoch)[place]]
    longest = max(len(text) for one in chosen for text in one.texts)
    width = min(row_width(longest), self._length)
    return preference_batch(chosen, self._batch, width, self._pad_id)

  def _cut(self, epoch: int) -> list[list[int]]:
    """The epoch's batches: which preferences are in each."""
    order = list(range(len(self._preferences)))
    stream(self._seed, "preferences", epoch).shuffle(order)
    batches: list[list[int]] = [[]]
    used = 0
    for i in order:
      rows = len(self._preferences[i].texts)
      if used + rows > self._batch:
        batches.append([])
        used = 0
      batches[-1].append(i)
      used += rows
    return batches
