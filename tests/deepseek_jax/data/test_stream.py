"""Packing running text: no token lost, segments as each packing says, resuming by state."""

import json

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.document import Sample
from deepseek_jax.data.pipeline import open_batches
from deepseek_jax.data.stream import PACKINGS, PackedIterator, PackedStream

LENGTHS = st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any)


def samples_of(lengths):
  """Distinct tokens from 1 on, None for an empty document; the first two tokens are a prompt."""
  starts = np.cumsum([1, *lengths])
  return [
    Sample(list(range(start, start + n)), min(2, n - 1)) if n else None
    for start, n in zip(starts, lengths)
  ]


def walk(samples, batch, length, packing):
  source = grain.MapDataset.source(samples)
  stream = PackedStream(source, batch, length, packing, pad_id=0, epoch=len(samples))
  return PackedIterator(stream)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 3), st.integers(1, 9), st.sampled_from(PACKINGS))
def test_no_token_is_lost_or_repeated_or_moved(lengths, batch, length, packing):
  batches = list(walk(samples_of(lengths), batch, length, packing))
  tokens = np.concatenate([b.tokens_BT.ravel() for b in batches])
  there = np.concatenate([b.segments_BT.ravel() for b in batches]) > 0
  assert tokens[there].tolist() == list(range(1, sum(lengths) + 1))
  assert not there[there.sum() :].any()  # padding only behind the last token
  assert (tokens[~there] == 0).all()


@given(LENGTHS, st.integers(1, 3), st.integers(1, 9))
@settings(deadline=None)
def test_v3_rows_are_one_segment(lengths, batch, length):
  for b in walk(samples_of(lengths), batch, length, "v3"):
    there_BT = b.segments_BT > 0
    assert set(np.unique(b.segments_BT)) <= {0, 1}
    running_BT = np.broadcast_to(np.arange(length), there_BT.shape)
    assert (b.positions_BT[there_BT] == running_BT[there_BT]).all()


@given(LENGTHS, st.integers(1, 3), st.integers(1, 9))
@settings(deadline=None)
def test_documents_are_segments_with_positions_from_zero(lengths, batch, length):
  owner = {t: i for i, s in enumerate(samples_of(lengths)) if s for t in s.tokens}
  for b in walk(samples_of(lengths), batch, length, "documents"):
    for tokens_T, positions_T, segments_T in zip(b.tokens_BT, b.positions_BT, b.segments_BT):
      for t in range(1, length):
        if not segments_T[t]:
          continue
        same = owner[tokens_T[t]] == owner[tokens_T[t - 1]]
        assert (segments_T[t] == segments_T[t - 1]) == same
        assert segments_T[t] - segments_T[t - 1] == (0 if same else 1)
        assert positions_T[t] == (positions_T[t - 1] + 1 if same else 0)
      assert positions_T[0] == 0


@given(LENGTHS, st.sampled_from(PACKINGS), st.integers(1, 9))
@settings(deadline=None)
def test_loss_is_on_all_but_prompts_wherever_the_rows_cut(lengths, packing, length):
  prompts = {t for s in samples_of(lengths) if s for t in s.tokens[: s.prompt_length]}
  for b in walk(samples_of(lengths), 2, length, packing):
    for token, segment, mask in zip(
      b.tokens_BT.ravel().tolist(), b.segments_BT.ravel(), b.loss_mask_BT.ravel()
    ):
      assert mask == float(segment > 0 and token not in prompts)


@given(LENGTHS, st.integers(0, 8), st.sampled_from(PACKINGS))
@settings(deadline=None)
def test_a_stream_goes_on_from_any_state(lengths, taken, packing):
  samples = samples_of(lengths)
  whole = list(walk(samples, 1, 5, packing))
  taken = min(taken, len(whole))
  first = walk(samples, 1, 5, packing)
  for _ in range(taken):
    next(first)
  state = json.loads(json.dumps(first.get_state()))
  second = walk(samples, 1, 5, packing)
  second.set_state(state)
  rest = list(second)
  assert len(rest) == len(whole) - taken
  for a, b in zip(rest, whole[taken:]):
    assert (a.tokens_BT == b.tokens_BT).all() and (a.segments_BT == b.segments_BT).all()
    assert (a.positions_BT == b.positions_BT).all() and (a.loss_mask_BT == b.loss_mask_BT).all()


def test_a_corpus_without_any_text_is_an_error_and_not_an_endless_loop():
  documents = grain.MapDataset.source([None, None]).repeat()
  stream = PackedStream(documents, 1, 4, "v3", pad_id=0, epoch=2)
  with pytest.raises(ConfigError, match="no text"):
    next(PackedIterator(stream))


CONFIGS = {
  "problems": DataConfig(batch=4, length=64, fim_rate=0.5),
  "stdlib": DataConfig(source="stdlib", tokenizer="byte", batch=2, length=96, fim_rate=0.1),
  "documents": DataConfig(batch=4, length=64, packing="documents", loss="answer"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_resumed_pipeline_continues_token_for_token(name):
  whole = open_batches(CONFIGS[name])
  states, batches = [], []
  for _ in range(8):
    states.append(json.loads(json.dumps(whole.get_state())))
    batches.append(next(whole))
  whole.close()
  for start in (0, 3, 7):
    resumed = open_batches(CONFIGS[name], prefetch=2)
    resumed.set_state(states[start])
    for expected in batches[start:]:
      got = next(resumed)
      assert (got.tokens_BT == expected.tokens_BT).all()
      assert (got.positions_BT == expected.positions_BT).all()
      assert (got.segments_BT == expected.segments_BT).all()
      assert (got.loss_mask_BT == expected.loss_mask_BT).all()
    resumed.close()


def test_another_seed_is_another_stream():
  first, second = (open_batches(DataConfig(seed=seed)) for seed in (0, 1))
  assert (next(first).tokens_BT != next(second).tokens_BT).any()
  first.close()
  second.close()
