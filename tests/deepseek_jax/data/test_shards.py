"""A corpus dealt to streams: the same batches whoever reads which of them, and all of it once."""

import json

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.omissions import Omissions
from deepseek_jax.data.pipeline import open_batches, open_source, sample_dataset
from deepseek_jax.data.shards import own_shards
from deepseek_jax.data.tokenizer import load_tokenizer

ROWS = 8


@pytest.fixture
def corpus(tmp_path):
  path = tmp_path / "corpus.jsonl"
  rows = [{"text": " ".join(["check"] * (1 + i % 5)) + f" {i % 10}"} for i in range(23)]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def config(corpus, shards, **more):
  return DataConfig(source="jsonl", path=str(corpus), batch=ROWS, length=16, shards=shards, **more)


def taken(batches, count):
  return [next(batches) for _ in range(count)]


@pytest.mark.parametrize("packing", ["v3", "documents"])
def test_processes_make_the_rows_of_one_between_them(corpus, packing):
  dealt = config(corpus, 4, packing=packing)
  whole = taken(open_batches(dealt), 9)
  for rows in (range(4), range(4, 8), range(2, 4), [0, 7]):
    own = open_batches(dealt, rows=rows)
    for one, other in zip(taken(own, 9), whole, strict=True):
      same = jax.tree.map(lambda a, b, r=list(rows): np.array_equal(a[r], b[r]), one, other)
      assert all(jax.tree.leaves(same))
      assert (one.segments_BT > 0).sum() == (other.segments_BT > 0).sum() == ROWS * 16


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_a_stream_reads_every_so_manieth_document(corpus, shards):
  dealt, tokenizer = config(corpus, shards), load_tokenizer("word")
  samples = sample_dataset(dealt, tokenizer, open_source(dealt), Omissions("corpus"))
  documents = [samples[i].tokens for i in range(200)]
  batches = taken(open_batches(dealt), 4)
  for stream, rows in enumerate(np.split(np.arange(ROWS), shards)):
    found = np.concatenate([batch.tokens_BT[rows].ravel() for batch in batches])
    wanted = np.concatenate(documents[stream::shards])
    assert found.tolist() == wanted[: len(found)].tolist()


def test_it_goes_on_from_states_of_several_processes_together(corpus):
  dealt = config(corpus, 4)
  whole, halves = (
    open_batches(dealt),
    [open_batches(dealt, rows=r) for r in (range(4), range(4, 8))],
  )
  states = [(taken(half, 3), half.get_state())[1] for half in halves]
  together = json.loads(json.dumps({**states[0], **states[1]}))
  taken(whole, 3)
  assert together == whole.get_state()
  resumed = open_batches(dealt)
  resumed.set_state(together)
  for one, other in zip(taken(resumed, 3), taken(whole, 3), strict=True):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_shards_of_rows():
  assert own_shards(range(8), 8, 1) == [0]
  assert own_shards([0, 1, 6], 8, 4) == [0, 3]
  assert own_shards([3], 8, 4) == [1]


@pytest.mark.parametrize(
  ("more", "told"),
  [
    ({"shards": 0}, "data.shards is 0; it must be positive"),
    ({"shards": 3}, "data.batch is 8; it must divide by data.shards, 3"),
    ({"shards": 2, "epochs": 1}, "data.shards is 2, but data.epochs is 1"),
  ],
)
def test_what_cannot_be_dealt_is_refused(corpus, more, told):
  with pytest.raises(ConfigError, match=told):
    config(corpus, **{"shards": 1, **more})
