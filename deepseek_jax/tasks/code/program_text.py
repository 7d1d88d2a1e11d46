"""The program in a completion: the last fenced block of its answer, or all of its answer.

Fences are CommonMark's: three or more of ` or ~, closed by as many of the same, and what stands in
a block loses the indentation of its fence, and the marks of the quotation that both stand in, which
ends where a line has none. Beyond that a fence at the end of a line of code closes
too, and one within a string of the program does not.
"""

import re
from collections.abc import Sequence

_OPENING = re.compile(r"([ \t]*)(`{3,}(?=[^`]*$)|~{3,})[ \t]*\{?[ \t]*\.?([\w+#-]*).*", re.ASCII)
_QUOTE = re.compile(r"[ \t]*>[ \t]?")
# In code: a comment, a triple quote that opens a string, or a string of one line.
_TOKEN = re.compile(r"""#.*|('{3}|"{3})|'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?""")
_STRING_ENDS = {quote: re.compile(rf"(?:[^\\]|\\.)*?{quote}") for quote in ("'" * 3, '"' * 3)}
_PYTHON = ("python", "python3", "py")


def answer_of(text: str) -> str | None:
  """What a completion says behind its thought and between its answer tags; None if it is cut off.

  A completion without tags is all answer. White space at the beginning stays: it may be a line's.
  """
  head, closed, rest = text.partition("</think>")
  if not closed:
    if head.lstrip().startswith("<think>"):
      return None
    rest = head
  if not rest.lstrip().startswith("<answer>"):
    return rest
  answer, closed, _ = rest.partition("<answer>")[2].partition("</answer>")
  return answer if closed else None


def program_of(text: str, functions: Sequence[str] = ()) -> str | None:
  """The program of a completion, or None where it has no answer.

  Of several blocks those count that say they are Python, else those that say nothing; of these the
  last that defines the most of `functions`, for an example of their use may follow. A block that
  is not closed is none.
  """
  answer = answer_of(text)
  if answer is None or not answer.strip():
    return None
  blocks = _blocks(answer)
  for languages in (_PYTHON, ("",)):
    found = [program for language, program in blocks if language in languages]
    if found:
      return max(reversed(found), key=lambda program: _defined(program, functions))
  return answer.strip("\r\n") + "\n"


def is_fenced(text: str) -> bool:
  """Whether a completion's answer has its program in a block."""
  blocks = _blocks(answer_of(text) or "")
  return any(language in (*_PYTHON, "") for language, _ in blocks)


def _defined(program: str, functions: Sequence[str]) -> int:
  """How many of the functions a program defines, be it as methods."""
  forms = [rf"^[ \t]*(?:async[ \t]+)?def[ \t]+{f}\b|^{f}[ \t]*[:=]" for f in functions]
  return sum(re.search(form, program, re.MULTILINE) is not None for form in forms)


def _blocks(text: str) -> list[tuple[str, str]]:
  """The closed blocks between fences: language and content.

  Where a string that nobody ends hides the fences of all that follows, strings are not looked at.
  """
  lines = re.split(r"\r\n|\r|\n", text)
  found, hidden = _scan(lines, strings=True)
  return _scan(lines, strings=False)[0] if hidden else found


def _scan(lines: list[str], strings: bool) -> tuple[list[tuple[str, str]], bool]:
  """The blocks, and whether one was not closed that has a fence in a string."""
  found: list[tuple[str, str]] = []
  block: _Block | None = None
  hidden = False
  for line in lines:
    if block is not None:
      inner = _unquoted(line, block.depth)
      opening = None if inner is None else _OPENING.fullmatch(inner)
      if inner is None:  # the quotation has ended
        hidden, block = hidden or block.hides, None
      elif block.takes(inner, opening is not None and opening[3] != ""):
        if block.closed:
          found.append((block.language, block.content))
          block = None
        continue
    depth, text = _quotation(line)
    opening = _OPENING.fullmatch(text)
    if opening is not None:
      block = _Block(opening[1], opening[2], opening[3], strings, depth)
  return found, hidden or (block is not None and block.hides)


def _quotation(line: str) -> tuple[int, str]:
  """How deep in quotations a line stands, and what is quoted."""
  depth = place = 0
  while mark := _QUOTE.match(line, place):
    depth, place = depth + 1, mark.end()
  return depth, line[place:]


def _unquoted(line: str, depth: int) -> str | None:
  """A line of a quotation so deep, without its marks; None where it stands in none.

  A blank line may lack them.
  """
  place = 0
  for _ in range(depth):
    mark = _QUOTE.match(line, place)
    if mark is None:
      return None if line[place:].strip() else ""
    place = mark.end()
  return line[place:]


class _Block:
  """A block of which the opening fence was read."""

  def __init__(self, indent: str, fence: str, language: str, strings: bool, depth: int) -> None:
    self.language = language.lower()
    self.depth = depth  # of the quotation that it stands in
    self.closed = self.hides = False
    self._indent, self._fence = len(indent), fence
    self._code = strings and self.language in (*_PYTHON, "")
    self._quote = ""  # the triple quote of a string that is open
    self._lines: list[str] = []

  @property
  def content(self) -> str:
    """Its lines, without the indentation of the fence."""
    return "".join(f"{line}\n" for line in self._lines)

  def takes(self, line: str, opens: bool) -> bool:
    """Reads a line; False for one that `opens` another block, as one that names a language does."""
    place = _fence_at(line, self._fence)
    alone = place >= 0 and not line[:place].strip()
    if self._code:
      within = bool(self._quote)
      if not self._is_code(line, place):
        place = -1
      if within and (alone or opens):
        self.hides, opens = True, False
    elif not alone:
      place = -1
    if opens:
      return False
    self.closed = place >= 0
    line = line[:place] if self.closed else line
    if line.strip() or not self.closed:
      space = len(line) - len(line.lstrip(" \t"))
      self._lines.append(line[min(self._indent, space) :])
    return True

  def _is_code(self, line: str, place: int) -> bool:
    """Reads a line of Python; whether the place, if any, is in no string or comment."""
    at = 0
    while True:
      if self._quote:
        end = _STRING_ENDS[self._quote].match(line, at)
        if end is None:
          return False
        at = end.end()
      token = _TOKEN.search(line, at)
      self._quote = (token[1] or "") if token else ""
      if token is None:
        return at <= place
      at = token.end()


def _fence_at(line: str, fence: str) -> int:
  """Where a line's end is a fence that closes such a one, or -1."""
  text = line.rstrip()
  place = len(text.rstrip(fence[0]))
  return place if len(text) - place >= len(fence) else -1
