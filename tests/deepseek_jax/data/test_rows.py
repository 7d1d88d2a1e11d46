"""Packing whole samples: nothing lost, nothing cut, segments and positions of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.data.document import Sample
from deepseek_jax.data.packing import best_fit, pack_samples
from deepseek_jax.data.samples import SampleBatches

LENGTHS = st.lists(st.integers(1, 16), min_size=1, max_size=40)


def samples_of(lengths):
  """Samples of distinct tokens from 1 on; a third of each is its prompt."""
  starts = np.cumsum([1, *lengths])
  return [Sample(list(range(start, start + n)), n // 3) for start, n in zip(starts, lengths)]


def read_back(batch):
  """The samples in a batch as (tokens, tokens that carry loss), by segment."""
  found = []
  for tokens_T, positions_T, segments_T, mask_T in zip(
    batch.tokens_BT, batch.positions_BT, batch.segments_BT, batch.loss_mask_BT
  ):
    for segment in range(1, segments_T.max() + 1):
      here_T = segments_T == segment
      assert positions_T[here_T].tolist() == list(range(here_T.sum()))
      assert np.diff(np.flatnonzero(here_T)).tolist() == [1] * (here_T.sum() - 1)
      found.append((tokens_T[here_T].tolist(), tokens_T[here_T & (mask_T > 0)].tolist()))
    padding_T = segments_T == 0
    assert not mask_T[padding_T].any() and (tokens_T[padding_T] == 0).all()
  return found


@given(LENGTHS)
def test_every_sample_stands_in_one_row_once_and_rows_are_few(lengths):
  rows = best_fit(lengths, 16)
  assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
  filled = [sum(lengths[i] for i in row) for row in rows]
  assert max(filled) <= 16
  # No two rows could be one: so fewer than twice the rows that the tokens need.
  assert len(rows) == 1 or sorted(filled)[0] + sorted(filled)[1] > 16


@given(LENGTHS, st.randoms())
def test_the_number_of_rows_does_not_depend_on_the_order(lengths, random):
  shuffled = list(lengths)
  random.shuffle(shuffled)
  assert len(best_fit(shuffled, 16)) == len(best_fit(lengths, 16))


@given(LENGTHS)
def test_packed_samples_read_back_with_loss_on_answers_only(lengths):
  samples = samples_of(lengths)
  found = read_back(pack_samples(samples, 16, pad_id=0))
  expected = [(list(s.tokens), list(s.tokens[s.prompt_length :])) for s in samples]
  assert sorted(found) == sorted(expected)


def test_rows_can_be_added_and_not_taken():
  samples = samples_of([10, 10, 3])
  batch = pack_samples(samples, 16, pad_id=0, rows=4)
  assert batch.tokens_BT.shape == (4, 16) and not batch.segments_BT[2:].any()
  assert batch.tokens_BT.dtype == np.int32 and batch.loss_mask_BT.dtype == np.float32
  with pytest.raises(ConfigError, match="2 rows"):
    pack_samples(samples, 16, pad_id=0, rows=1)


def test_what_cannot_be_packed_is_named():
  with pytest.raises(ConfigError, match=r"sample 1 has 17 tokens.*16"):
    pack_samples(samples_of([3, 17]), 16, pad_id=0)
  with pytest.raises(ConfigError, match="empty"):
    pack_samples([], 16, pad_id=0)
  with pytest.raises(ConfigError, match="empty"):
    SampleBatches([], 2, 16, pad_id=0, seed=0)


@given(LENGTHS, st.integers(1, 5))
def test_each_epoch_holds_each_sample_once(lengths, batch):
  samples = samples_of(lengths)
  batches = SampleBatches(samples, batch, 16, pad_id=0, seed=0, epochs=2)
  assert len(batches) == 2 * batches.batches_per_epoch
  for epoch in range(2):
    start = epoch * batches.batches_per_epoch
    one = [batches[start + i] for i in range(batches.batches_per_epoch)]
    assert all(b.tokens_BT.shape == (batch, 16) for b in one)
    tokens = [tokens for b in one for tokens, _ in read_back(b)]
    assert sorted(tokens) == sorted(list(s.tokens) for s in samples)


def test_batches_are_a_function_of_seed_and_index():
  samples = samples_of([5, 7, 3, 9, 4, 8, 6, 2] * 4)
  make = lambda seed: SampleBatches(samples, 3, 16, pad_id=0, seed=seed, epochs=3)  # noqa: E731
  forward = [make(0)[i].tokens_BT for i in range(len(make(0)))]
  again, backward = make(0), {}
  for i in reversed(range(len(again))):
    backward[i] = again[i].tokens_BT
  assert all((backward[i] == forward[i]).all() for i in backward)
  assert any((make(1)[i].tokens_BT != forward[i]).any() for i in range(len(forward)))
  per_epoch = again.batches_per_epoch
  assert any((forward[i] != forward[i + per_epoch]).any() for i in range(per_epoch))
  with pytest.raises(IndexError):
    again[len(again)]
