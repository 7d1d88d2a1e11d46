"""The form of a completion: `<think> THOUGHT </think> <answer> ANSWER </answer>`.

Nothing but white space may stand before, between or after, and each tag occurs exactly once: a
second answer, an unclosed thought or an answer inside the thought is no response at all. So a
completion that was cut off, or one that lists several answers, earns nothing.
"""

import dataclasses

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclasses.dataclass(frozen=True)
class Response:
  """The two parts of a well-formed completion, stripped of white space."""

  thought: str
  answer: str


def parse_response(text: str) -> Response | None:
  """The parts of a completion, or None where the form is broken; linear in the text's length."""
  if any(text.count(tag) != 1 for tag in TAGS):
    return None
  before, _, rest = text.partition("<think>")
  thought, closed, rest = rest.partition("</think>")
  between, opened, rest = rest.partition("<answer>")
  answer, ended, after = rest.partition("</answer>")
  if not (closed and opened and ended) or before.strip() or between.strip() or after.strip():
    return None
  return Response(thought.strip(), answer.strip())


def thought_of(text: str) -> str:
  """The thought, also of a completion whose form is broken: up to `</think>` or `<answer>`.

  A completion without tags is all thought.
  """
  start, end = thought_span(text)
  return text[start:end]


def thought_span(text: str) -> tuple[int, int]:
  """Where the thought of `thought_of` begins and ends in the text."""
  before, opened, rest = text.partition("<think>")
  start, thought = (len(before) + len(opened), rest) if opened else (0, text)
  thought = thought.partition("</think>")[0].partition("<answer>")[0].rstrip()
  end = start + len(thought)
  return end - len(thought.lstrip()), end
