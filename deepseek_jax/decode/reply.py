"""A model's reply, as it streams and when it is complete: thought, answer, end and speed."""

import dataclasses
import html
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from deepseek_jax.data.conversation import stop_ids
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.request import Event
from deepseek_jax.decode.text import Detokenizer, StopFilter, StopStrings
from deepseek_jax.decode.thought import Piece, ThoughtSplitter, has_answer_tags

UNCLOSED = "the thought was not closed: there is no answer"


@dataclasses.dataclass(frozen=True)
class Reply:
  """What a model replied. In a notebook it shows itself, the thought folded."""

  thinking: str
  answer: str
  closed: bool  # no thought was left open
  tokens: int  # new ones, the end token included
  tokens_per_second: float | None  # see `ReplyStream`; None: too short to tell
  finish_reason: str  # stop | length

  def record(self) -> dict[str, Any]:
    """All of it, ready for JSON."""
    return dataclasses.asdict(self)

  def __str__(self) -> str:
    return self.answer

  def _repr_html_(self) -> str:
    """The answer below its folded thought; one that was never closed is unfolded and says so."""
    parts = []
    if self.thinking or not self.closed:
      title, opened = ("Thought", "") if self.closed else (UNCLOSED.capitalize(), " open")
      parts.append(
        f"<details{opened}><summary>{title}</summary>{_block(self.thinking, 'opacity: 0.6')}"
        "</details>"
      )
    parts.append(_block(self.answer))
    return "".join(parts)


class ReplyStream:
  """Iterates over the pieces of a reply as its tokens come; at the end `reply` is complete.

  Speed is that of decoding: tokens over time behind the second event, because up to there programs
  are compiled.
  """

  def __init__(
    self,
    events: Iterable[Event],
    tokenizer: Tokenizer,
    opened: bool = False,
    halt: StopStrings | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """`events` are of one request, which `halt` ends; `opened`: it begins inside a thought."""
    self._events, self._halt, self._clock = events, halt, clock
    self._ends = frozenset(stop_ids(tokenizer))
    self._text, self._filter = Detokenizer(tokenizer), StopFilter(halt.stops if halt else ())
    self._splitter = ThoughtSplitter(opened, has_answer_tags(tokenizer))
    self._reply: Reply | None = None

  def __iter__(self) -> Iterator[Piece]:
    if self._reply is not None:
      return
    marks = [(self._clock(), 0)]  # time and tokens so far
    finish, told = "", 0  # characters that passed the filter
    for event in self._events:
      marks.append((self._clock(), marks[-1][1] + len(event.tokens)))
      text = self._text.push([token for token in event.tokens if token not in self._ends])
      passed = self._filter.push(text)
      told += len(passed)
      yield from self._splitter.push(passed)
      finish = event.finish
    last = self._filter.push(self._text.finish()) + self._filter.finish()
    if self._halt is not None and event.request in self._halt.texts:
      # The engine has cut away the tokens that complete the stop string.
      last = self._halt.texts[event.request][told:]
    yield from self._splitter.push(last)
    yield from self._splitter.finish()
    split = self._splitter.split
    self._reply = Reply(
      thinking=split.thinking,
      answer=split.answer,
      closed=split.closed,
      tokens=marks[-1][1],
      tokens_per_second=_speed(marks),
      finish_reason=finish,
    )

  @property
  def reply(self) -> Reply:
    """The complete reply; what has not come yet is waited for."""
    if self._reply is None:
      for _ in self:
        pass
    assert self._reply is not None
    return self._reply


def _speed(marks: Sequence[tuple[float, int]]) -> float | None:
  """Tokens per second between the marks that count, to three digits."""
  if len(marks) < 4:
    return None
  (start, before), (end, after) = marks[2], marks[-1]
  return float(f"{(after - before) / (end - start):.3g}") if end > start else None


def _block(text: str, style: str = "") -> str:
  return f'<div style="white-space: pre-wrap; {style}">{html.escape(text)}</div>'
