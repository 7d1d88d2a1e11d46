"""The thought and the answer in a stream: wherever the tags are split, and whatever is missing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.decode.thought import (
  Piece,
  Split,
  ThoughtSplitter,
  has_answer_tags,
  split_thought,
)

CASES = {
  "thought and answer": ("<think>\na b\n</think>\n\nfour", False, Split("a b", "four", True)),
  "forced opening": ("a b\n</think>\n\nfour", True, Split("a b", "four", True)),
  "opened twice": ("<think>\na</think>b", True, Split("a", "b", True)),
  "no tags": (" just text ", False, Split("", " just text ", True)),
  "unclosed": ("<think> a b", False, Split("a b", "", False)),
  "unclosed, forced": ("a b </thin", True, Split("a b </thin", "", False)),
  "nothing": ("", False, Split("", "", True)),
  "nothing, forced": ("", True, Split("", "", False)),
  "an empty thought": ("<think>\n\n</think>\n\nx", False, Split("", "x", True)),
  "nothing behind": ("<think>a</think>", False, Split("a", "", True)),
  "tags in the answer": ("<think>a</think>x <think> y", False, Split("a", "x <think> y", True)),
  "a late tag": ("x <think>a</think>", False, Split("", "x <think>a</think>", True)),
  "nearly a tag": ("<thin>a</think>", False, Split("", "<thin>a</think>", True)),
  "nearly an end": ("<think>a</thi </think>b", False, Split("a</thi", "b", True)),
  "other tags": ("<answer> 4 </answer>", False, Split("", "<answer> 4 </answer>", True)),
}


@pytest.mark.parametrize("case", CASES)
@given(cuts=st.lists(st.integers(0, 40)))
def test_what_streams_is_the_split(case, cuts):
  text, opened, expected = CASES[case]
  splitter, said, last = ThoughtSplitter(opened), [], 0
  for cut in [*sorted(c % (len(text) + 1) for c in cuts), len(text)]:
    said += splitter.push(text[last:cut])
    last = cut
  said += splitter.finish()
  assert "".join(p.text for p in said if p.thinking) == expected.thinking
  assert "".join(p.text for p in said if not p.thinking) == expected.answer
  assert splitter.split == expected == split_thought(text, opened)
  kinds = [p.thinking for p in said]
  assert kinds == sorted(kinds, reverse=True) and all(p.text for p in said)


def test_what_is_certain_does_not_wait():
  splitter = ThoughtSplitter()
  told = [splitter.push(x) for x in ("<th", "ink>\n", "a <", " b </", "think>", " c", " ", "d")]
  assert told == [
    [], [], [Piece("a", True)], [Piece(" < b", True)], [], [Piece("c", False)], [],
    [Piece(" d", False)],
  ]  # fmt: skip


@given(cuts=st.lists(st.integers(0, 80)))
def test_the_minis_answer_tags_are_left_out(cuts):
  text = "<think> 3 * 2 </think> <answer> 3 * 2 </answer>"
  splitter, last = ThoughtSplitter(answer_tags=True), 0
  for cut in [*sorted(c % (len(text) + 1) for c in cuts), len(text)]:
    splitter.push(text[last:cut])
    last = cut
  splitter.finish()
  assert splitter.split == Split("3 * 2", "3 * 2", True)


def test_answer_tags_are_those_of_the_tokenizer():
  assert has_answer_tags(load_tokenizer("word")) and has_answer_tags(load_tokenizer("byte"))
