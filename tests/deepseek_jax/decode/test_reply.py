"""Replies from a stream of events: text, thought, end, speed, and how a notebook shows them."""

import pytest

from deepseek_jax.data.byte_tokenizer import ByteTokenizer
from deepseek_jax.decode.reply import Reply, ReplyStream
from deepseek_jax.decode.request import Event
from deepseek_jax.decode.text import StopStrings
from deepseek_jax.decode.thought import Piece

BYTE = ByteTokenizer()


def events(*texts, finish="stop", end=True):
  """An event per text; the last holds the end token if `end`."""
  runs = [BYTE.encode(text) for text in texts]
  runs[-1] += [BYTE.eos_id] if end else []
  for i, run in enumerate(runs):
    yield Event(0, run, [0.0] * len(run), finish if i == len(runs) - 1 else "")


def clock(*times):
  return iter(times).__next__


def test_a_reply_streams_and_is_complete_at_the_end():
  stream = ReplyStream(
    events("<think>a", " b</thi", "nk>\n\nfo", "ur"), BYTE, clock=clock(0.0, 9.0, 10.0, 11.0, 12.0)
  )
  assert list(stream) == [
    Piece("a", True), Piece(" b", True), Piece("fo", False), Piece("ur", False)
  ]  # fmt: skip
  reply = stream.reply
  assert (reply.thinking, reply.answer, reply.closed) == ("a b", "four", True)
  # <think> and </think> are a token each, were they not split over events.
  assert reply.tokens == 2 + 7 + 7 + 3 and reply.finish_reason == "stop"
  assert reply.tokens_per_second == 10 / 2  # of the last two events, in two seconds
  assert reply.record()["answer"] == str(reply) == "four"
  assert list(stream) == [] and stream.reply is reply


def test_the_reply_waits_for_what_has_not_come():
  reply = ReplyStream(events("hi", finish="length", end=False), BYTE, clock=clock(0.0, 0.5)).reply
  assert reply == Reply("", "hi", True, 2, None, "length")


def test_a_thought_that_the_prompt_opened_and_nothing_closed():
  reply = ReplyStream(events("a b", finish="length", end=False), BYTE, opened=True).reply
  assert (reply.thinking, reply.answer, reply.closed) == ("a b", "", False)
  assert "<details open><summary>The thought was not closed" in reply._repr_html_()


@pytest.mark.parametrize("texts", [["four E", "ND or more"], ["four EN", "D"], ["four END"]])
def test_a_stop_string_ends_the_text_wherever_the_tokens_end(texts):
  """Also when the engine cuts the tokens that complete it, as engines do."""
  halt = StopStrings(BYTE, ["END"])
  kept = halt(0, BYTE.encode("".join(texts)))
  assert kept == len("four")

  def cut():
    """What a halted engine tells of its tokens, some of them before it knows."""
    whole = list(events(*texts, end=False))
    yield from whole[:-1]
    told = sum(len(e.tokens) for e in whole[:-1])
    yield Event(0, whole[-1].tokens[: max(0, kept - told)], [], "stop")

  stream = ReplyStream(cut(), BYTE, halt=halt)
  assert "".join(piece.text for piece in stream) == stream.reply.answer == "four"
  assert stream.reply.finish_reason == "stop"


def test_a_character_that_never_ends_is_not_lost():
  broken = [Event(0, BYTE.encode("€")[:2], [0.0] * 2, "length")]
  assert ReplyStream(broken, BYTE).reply.answer == "�"


@pytest.mark.parametrize("thinking", ["", "1 < 2"])
def test_html_is_escaped_and_thoughts_are_folded(thinking):
  shown = Reply(thinking, "<b> & </b>", True, 3, 1.0, "stop")._repr_html_()
  assert "&lt;b&gt; &amp; &lt;/b&gt;" in shown and "<b>" not in shown
  assert ("<details><summary>Thought</summary>" in shown) == bool(thinking)
  assert ("1 &lt; 2" in shown) == bool(thinking)
