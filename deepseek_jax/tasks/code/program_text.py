"""The program in a completion: the last fenced block of its answer, or all of its answer."""

import re

_FENCE = re.compile(r"[ \t]*```+[ \t]*([A-Za-z0-9+#._-]*)[ \t]*")
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


def program_of(text: str) -> str | None:
  """The program of a completion, or None where it has no answer.

  Of several blocks the last counts that says it is Python, else the last that says nothing. A block
  that is not closed is none.
  """
  answer = answer_of(text)
  if answer is None or not answer.strip():
    return None
  blocks = _blocks(answer)
  for languages in (_PYTHON, ("",)):
    found = [program for language, program in blocks if language in languages]
    if found:
      return found[-1]
  return answer.strip("\r\n") + "\n"


def is_fenced(text: str) -> bool:
  """Whether a completion's answer has its program in a block."""
  blocks = _blocks(answer_of(text) or "")
  return any(language in (*_PYTHON, "") for language, _ in blocks)


def _blocks(text: str) -> list[tuple[str, str]]:
  """The closed blocks between fences: language and content."""
  found: list[tuple[str, str]] = []
  language: str | None = None
  lines: list[str] = []
  for line in text.splitlines():
    fence = _FENCE.fullmatch(line)
    if fence is None:
      lines.append(line)
    elif language is None or fence[1]:  # one that names a language opens a block in any case
      language, lines = fence[1].lower(), []
    else:
      found.append((language, "".join(f"{line}\n" for line in lines)))
      language = None
  return found
