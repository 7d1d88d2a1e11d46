"""The thought in an answer, and the answer behind it, as the text streams in.

A completion is in the thought from its start if the prompt has opened one (R1's `<think>\\n`), or
once it begins with `<think>`; the first `</think>` ends it. A completion that begins otherwise has
no thought, and tags further in are text like any other. Where `<answer>` is a token of its own, as
in the minis, its tags are left out of the answer.
"""

import dataclasses
from collections.abc import Iterator

from deepseek_jax.data.special_tokens import ANSWER, END_ANSWER, END_THINK, THINK
from deepseek_jax.data.tokenizer import Tokenizer

_START, _THINKING, _ANSWER = range(3)


@dataclasses.dataclass(frozen=True)
class Piece:
  """A piece of what a model says."""

  text: str
  thinking: bool


@dataclasses.dataclass(frozen=True)
class Split:
  """A completion in two. `closed`: no thought was left open."""

  thinking: str
  answer: str
  closed: bool


class ThoughtSplitter:
  """Sorts a stream of text; a tag may be split over any number of pieces.

  White space around a thought and around the answer behind it is left out, of what streams too; a
  completion without a thought is given out as it is.
  """

  def __init__(self, opened: bool = False, answer_tags: bool = False):
    """`opened`: the prompt ends inside a thought. `answer_tags` leaves out `<answer>`'s."""
    self._state = _THINKING if opened else _START
    self._verbatim = False
    self._tags = (ANSWER, END_ANSWER) if answer_tags else ()
    self._held = ""  # may be part of a tag, or white space that something may follow
    self._said = ["", ""]  # answer, thinking

  def push(self, text: str) -> list[Piece]:
    """The further pieces that are certain."""
    self._held += text
    return list(self._sorted(end=False))

  def finish(self) -> list[Piece]:
    """What is left at the end."""
    return list(self._sorted(end=True))

  @property
  def split(self) -> Split:
    """What was sorted so far."""
    answer, thinking = self._said
    return Split(thinking, answer, self._state != _THINKING)

  def _sorted(self, end: bool) -> Iterator[Piece]:
    if self._state == _START:
      self._begin(end)
    if self._state == _THINKING:
      yield from self._think(end)
    if self._state == _ANSWER:
      for tag in self._tags:
        self._held = self._held.replace(tag, "")
      yield from self._say(self._held, self._tags, thinking=False, end=end)

  def _begin(self, end: bool) -> None:
    """Decides whether a thought comes first."""
    text = self._held.lstrip()
    if text.startswith(THINK):
      self._state, self._held = _THINKING, text
    elif end or not THINK.startswith(text):
      self._state, self._verbatim = _ANSWER, not self._tags

  def _think(self, end: bool) -> Iterator[Piece]:
    """Gives out the thought up to its end tag; a tag that opens it once more is left out."""
    if not self._said[True]:
      text = self._held.lstrip()
      if not end and text and THINK.startswith(text) and text != THINK:
        return
      self._held = text.removeprefix(THINK)
    thought, closed, rest = self._held.partition(END_THINK)
    if closed:
      yield from self._say(thought, (), thinking=True, end=True)
      self._state, self._held = _ANSWER, rest
    else:
      yield from self._say(thought, (END_THINK,), thinking=True, end=end)

  def _say(self, text: str, tags: tuple[str, ...], thinking: bool, end: bool) -> Iterator[Piece]:
    """Gives out text, but for what may begin one of the tags and for white space at the ends."""
    certain = text
    if not end:
      certain = text[: len(text) - max((_begun(text, tag) for tag in tags), default=0)]
    if not self._verbatim:
      certain = certain.rstrip()
    self._held = "" if end else text[len(certain) :]
    if not self._said[thinking] and not self._verbatim:
      certain = certain.lstrip()
    if certain:
      self._said[thinking] += certain
      yield Piece(certain, thinking)


def split_thought(text: str, opened: bool = False, answer_tags: bool = False) -> Split:
  """A whole completion in two."""
  splitter = ThoughtSplitter(opened, answer_tags)
  splitter.push(text)
  splitter.finish()
  return splitter.split


def has_answer_tags(tokenizer: Tokenizer) -> bool:
  """Whether `<answer>` is a token, so that it marks an answer and is not part of one."""
  return tokenizer.id_of(ANSWER) is not None


def _begun(text: str, tag: str) -> int:
  """How many characters at the end of the text may be the beginning of the tag."""
  return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)
