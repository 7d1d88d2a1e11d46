"""Text from a stream of tokens: no half characters, and stop strings that tokens need not respect.

A token may hold part of a character, and a stop string may begin in one token and end in another.
`Detokenizer` gives out only whole characters, `StopFilter` only what no stop string can begin
with, and `StopStrings` tells the engine when a request must end.
"""

from collections.abc import Sequence

from deepseek_jax.config import require
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.given import items

_BROKEN = "�"
_UNFINISHED = 3  # bytes of a character that wants one more: as many broken ones may be mended


class Detokenizer:
  """The text of tokens as they come: what was given out, joined, is the text of all of them.

  Tokens are decoded beside those before them, since many decoders treat the first token of a text
  in its own way; only the newest are decoded again. (Of SentencePiece's byte fallback, where one
  broken byte spoils the whole run in hindsight, valid characters stay as they were given out.)
  """

  def __init__(self, tokenizer: Tokenizer):
    self._decode = tokenizer.decode
    self._before: list[int] = []  # tokens given out last, whole characters that are not nothing
    self._pending: list[int] = []
    self._shown = ""  # of the text of both

  def push(self, tokens: Sequence[int]) -> str:
    """The further text that is certain with these tokens."""
    self._pending += tokens
    text = self._decode([*self._before, *self._pending])
    whole = text
    for _ in range(_UNFINISHED):
      whole = whole.removesuffix(_BROKEN)
    if not whole.startswith(self._shown) or len(whole) == len(self._shown):
      return ""
    new, self._shown = whole[len(self._shown) :], whole
    if whole == text:
      self._before, self._pending = self._pending, []
      self._shown = self._decode(self._before)
    return new

  def finish(self) -> str:
    """What is left at the end: a character that was never finished."""
    left = self._decode([*self._before, *self._pending])[len(self._shown) :]
    self._shown += left
    return left


class StopFilter:
  """Text before the first stop string; what might be the beginning of one waits."""

  def __init__(self, stops: Sequence[str] = ()):
    require(all(stops), "a stop string is empty; leave it out.")
    self._stops = tuple(stops)
    self._held = ""
    self.stopped = False

  def push(self, text: str) -> str:
    """The further text that no stop string can reach."""
    if self.stopped:
      return ""
    text = self._held + text
    found = first_stop(text, self._stops)
    if found >= 0:
      self.stopped, self._held = True, ""
      return text[:found]
    keep = max((_overlap(text, stop) for stop in self._stops), default=0)
    self._held = text[len(text) - keep :]
    return text[: len(text) - keep]

  def finish(self) -> str:
    """What waited, at the end."""
    left, self._held = self._held, ""
    return left


class StopStrings:
  """The engine's `halt`: where a request must end because its text holds a stop string.

  Called with all tokens of a request so far, it tells how many make the text before the stop
  string, white space at its end aside; None while there is no stop string. The last of these tokens
  may hold the beginning of the stop string, or all of it: `texts` has the text of each request that
  was ended, which is without.
  """

  def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]):
    require(all(stops), "a stop string is empty; leave it out.")
    self._tokenizer, self.stops = tokenizer, tuple(stops)
    self.texts: dict[int, str] = {}
    self._longest = max(map(len, stops), default=0)
    self._requests: dict[int, _Progress] = {}

  def __call__(self, request: int, tokens: Sequence[int]) -> int | None:
    """How many of the tokens to keep, or None to go on."""
    progress = self._requests.setdefault(request, _Progress(self._tokenizer))
    start = max(0, len(progress.text) - self._longest + 1)
    progress.read(tokens)
    found = first_stop(progress.text[start:], self.stops)
    if found < 0:
      return None
    del self._requests[request]
    self.texts[request] = progress.text[: start + found]
    needed = len(self.texts[request].rstrip())
    return next((n for n, end in enumerate(progress.ends) if end >= needed), len(tokens))


class _Progress:
  """The text of a request, and how much of it the first n tokens make."""

  def __init__(self, tokenizer: Tokenizer):
    self._detokenizer = Detokenizer(tokenizer)
    self.text = ""
    self.ends = [0]

  def read(self, tokens: Sequence[int]) -> None:
    """Reads the tokens behind those already read."""
    for token in tokens[len(self.ends) - 1 :]:
      self.text += self._detokenizer.push([token])
      self.ends.append(len(self.text))


def stop_strings(
  tokenizer: Tokenizer | None, stops: str | Sequence[str] | None
) -> StopStrings | None:
  """The `halt` of one stop string or several; None if there are none."""
  given = [stops] if isinstance(stops, str) else items(() if stops is None else stops)
  require(
    given is not None and all(isinstance(stop, str) for stop in given),
    f"stop is {stops!r:.100}; give a text or a list of texts.",
  )
  if not given:
    return None
  require(tokenizer is not None, "the model has no tokenizer; stop strings need one.")
  assert tokenizer is not None
  return StopStrings(tokenizer, given)


def first_stop(text: str, stops: Sequence[str]) -> int:
  """Where the first stop string to be complete begins in the text, -1 if there is none.

  Not the first to begin: while that is still coming, a shorter one inside it has ended the text.
  """
  places = [(text.find(stop), len(stop)) for stop in stops]
  return min(((at + size, at) for at, size in places if at >= 0), default=(0, -1))[1]


def _overlap(text: str, stop: str) -> int:
  """How many characters at the end of the text begin `stop`."""
  longest = min(len(text), len(stop) - 1)
  return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
