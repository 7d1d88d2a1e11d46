"""Fill-in-the-middle: the parts put together again are the document."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.data.byte_tokenizer import ByteTokenizer
from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.document import Document, Sample, make_sample
from deepseek_jax.data.fim import FillInTheMiddle
from deepseek_jax.data.omissions import Omissions
from deepseek_jax.data.pipeline import open_source, sample_dataset
from deepseek_jax.data.tokenizer import load_tokenizer

BYTE = ByteTokenizer()


def put_together(tokens, fim):
  """`begin PREFIX hole SUFFIX end MIDDLE eos` as the document that it was."""
  opening, rest = tokens[: tokens.index(fim.begin)], tokens[tokens.index(fim.begin) + 1 :]
  hole, end = rest.index(fim.hole), rest.index(fim.end)
  prefix, suffix, middle = rest[:hole], rest[hole + 1 : end], rest[end + 1 : -1]
  return [*opening, *prefix, *middle, *suffix, rest[-1]]


@given(st.text(max_size=50), st.integers(0, 1000))
def test_the_parts_are_the_document(text, seed):
  fim = FillInTheMiddle.of(BYTE, 1.0)
  assume(not {fim.begin, fim.hole, fim.end} & set(BYTE.encode(text)))
  sample = make_sample(BYTE, Document(text))
  changed = fim(sample, np.random.default_rng(seed))
  assert len(changed) == len(sample) + 3
  assert put_together(list(changed.tokens), fim) == list(sample.tokens)


def test_a_begin_token_stays_in_front():
  fim = FillInTheMiddle(1.0, begin=90, hole=91, end=92, bos=80)
  changed = fim(Sample([80, 1, 2, 3, 81]), np.random.default_rng(0))
  assert changed.tokens[:2] == [80, 90] and changed.tokens[-1] == 81
  assert put_together(list(changed.tokens), fim) == [80, 1, 2, 3, 81]


def test_the_rate_is_kept_per_document_and_the_rest_is_untouched():
  config = DataConfig(fim_rate=0.1)
  tokenizer = load_tokenizer("word")
  source = open_source(config)
  changed = sample_dataset(config, tokenizer, source, Omissions("x"))
  plain = sample_dataset(DataConfig(), tokenizer, source, Omissions("x"))
  fim = FillInTheMiddle.of(tokenizer, 0.1)
  count = 0
  for i in range(1500):
    if fim.begin in changed[i].tokens:
      count += 1
      assert put_together(list(changed[i].tokens), fim) == list(plain[i].tokens)
    else:
      assert changed[i] == plain[i]
  assert 0.075 < count / 1500 < 0.125


def test_a_tokenizer_without_markers_is_told():
  class Bare(ByteTokenizer):
    def id_of(self, token):
      return None

  with pytest.raises(ConfigError, match="fim_rate"):
    FillInTheMiddle.of(Bare(), 0.1)
