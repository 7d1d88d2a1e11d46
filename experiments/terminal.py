"""Where replies are shown: on a terminal the thought is dim, elsewhere it stands in its tags."""

import os
import sys
from typing import TextIO

from deepseek_jax.decode.reply import UNCLOSED, Reply, ReplyStream

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class Terminal:
  """A stream of text to show replies on as they come."""

  def __init__(self, out: TextIO | None = None):
    self._out = out or sys.stdout
    self._dims = self._out.isatty() and not os.environ.get("NO_COLOR")

  def show(self, stream: ReplyStream) -> Reply:
    """Writes a reply piece by piece, the thought apart from the answer, and ends the line."""
    thinking = False
    for piece in stream:
      if piece.thinking != thinking:
        self._write(self._begin if piece.thinking else self._end)
        thinking = piece.thinking
      self._write(piece.text)
    reply = stream.reply
    if thinking:
      self._write(self._end if reply.closed else _PLAIN * self._dims)
    self._write("\n")
    if not reply.closed:
      self.note(UNCLOSED)
    if reply.finish_reason == "length":
      self.note(f"cut off after {reply.tokens} tokens, at --max_new or the end of the context")
    return reply

  def end(self, text: str) -> None:
    """Ends what an interrupted reply has begun, and says why."""
    self._write(_PLAIN * self._dims + "\n")
    self.note(text)

  def note(self, text: str) -> None:
    """Something about a reply, on standard error so that it mingles with none."""
    self._out.flush()
    print(f"[{text}]", file=sys.stderr, flush=True)

  @property
  def _begin(self) -> str:
    return _DIM if self._dims else "<think>\n"

  @property
  def _end(self) -> str:
    return f"{_PLAIN}\n\n" if self._dims else "\n</think>\n\n"

  def _write(self, text: str) -> None:
    self._out.write(text)
    self._out.flush()
