r"""Finding the final answer in a completion, and comparing answers.

An answer is a number, an expression or words, in plain text or in LaTeX: `$\frac{1}{2}$`, `1/2` and
`0.5` are one answer, as are `\text{(B)}` and `B`. Numbers are compared exactly where both are whole
and to nine digits elsewhere; everything else as text, after what only sets it (dollars, spacing,
`\left`, `\dfrac`, units in `\text`) is taken away. Nothing is evaluated, and every step takes time
linear in the text's length.
"""

import dataclasses
import re
from fractions import Fraction

from deepseek_jax.tasks.response import parse_response

_LONGEST = 4000  # digits of a number; a longer one is text
_EXPONENT = 400  # of ten, at most
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(\{)|([^\s{}\\$.,;]+))")
_BETWEEN = re.compile(
  r"(?:[\s,;$]|\\[()\[\]]|\\q?quad\b|and\b|or\b|\\text\s?\{\s?(?:and|or)\s?\})*"
)
_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(rf"([+-]?)({_INTEGER}?)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{{1,4}}))?", re.ASCII)
_FRACTION = re.compile(r"([+-]?)([0-9]*)\\frac\{([+-]?[0-9]+)\}\{([0-9]+)\}", re.ASCII)
_QUOTIENT = re.compile(r"([+-]?[0-9]+)/([0-9]+)", re.ASCII)
_LAST_NUMBER = re.compile(
  rf"(?<![\w{{\[^\\])-?(?:\$\s?)?(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)(?![\w}}])", re.ASCII
)
_SPELLINGS = (
  (re.compile("[\u2212\u2013\ufe63\uff0d]"), "-"),
  (re.compile(r"\\[dtc]frac"), r"\\frac"),
  (re.compile(r"\\frac\s*([0-9])\s*([0-9])"), r"\\frac{\1}{\2}"),
  (re.compile(r"\{,\}|,\\!\s*"), ","),
  (re.compile(r"(?<=[0-9}])\s*(?:percentage|percent|pct)\b"), "%"),
  (re.compile(r"\\(?:left|right|displaystyle|limits)\b|\\[,;:!]|\\ |~"), ""),
  (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|°"), ""),
  (re.compile(r"\\[()\[\]]|\\?\$|\\?%"), ""),
)
TEXT_COMMANDS = r"\\(?:text|textbf|textit|textnormal|mathrm|mathbf|mbox)"
_WORDS = re.compile(TEXT_COMMANDS + r"\s*\{([^{}]*)\}")
_UNIT = re.compile(rf"(?<=[0-9}}])\s*{TEXT_COMMANDS}\s*\{{[^{{}}]*\}}$")
_NAMED = re.compile(r"[A-Za-z]\s*=\s*(?=[^=])")
_LETTER = re.compile(r"\(([A-Za-z])\)")
_PAIRS = {"(": ")", "[": "]"}


def extract_answer(text: str) -> str | None:
  """The answer: between answer tags, or else in the last closed box behind the thought; or None.

  A box around all that stands between the tags is taken off. In a thought that has not ended there
  is none.
  """
  response = parse_response(text)
  if response is None:
    behind = text.rpartition("</think>")[2]
    return None if "<think>" in behind else last_box(behind)
  inner = last_box(response.answer)
  whole = inner is not None and response.answer.strip("$ \n").startswith("\\")
  return inner if whole else response.answer


def gold_answer(text: str) -> str:
  """The answer of a data set's field: what follows its `####`, or its last box, or all of it."""
  text = text.rpartition("####")[2]
  return (last_box(text) or text).strip()


def lenient_answer(text: str) -> str | None:
  """The answer in whatever form: that of `extract_answer`, or else the last number that is said."""
  found = extract_answer(text)
  if found is not None:
    return found
  numbers = _LAST_NUMBER.findall(text.rpartition("</think>")[2])
  return numbers[-1] if numbers else None


def last_box(text: str) -> str | None:
  r"""What is in the last closed `\boxed{}` or `\fbox{}`, also `\boxed {5}` and `\boxed 5`.

  Boxes with no more than `and`, `or` or a comma between are one answer: `\boxed{5} or \boxed{6}` is
  `5, 6`.
  """
  closing = _closing(text)
  boxes: list[tuple[int, int, slice]] = []  # where each begins and ends, and where its content is
  for match in _BOX.finditer(text):
    if match[2]:
      boxes.append((match.start(), match.end(), slice(*match.span(2))))
    elif match.start(1) in closing:
      end = closing[match.start(1)]
      boxes.append((match.start(), end + 1, slice(match.end(1), end)))
  joined: list[str] = []
  begin = len(text)
  for start, end, content in reversed(boxes):
    if joined and not (end <= begin and _BETWEEN.fullmatch(text, end, begin)):
      break
    joined.append(text[content].strip())
    begin = start
  return ", ".join(dict.fromkeys(reversed(joined))) if joined else None


def _closing(text: str) -> dict[int, int]:
  """Where each opening brace that is closed has its closing one."""
  stack, pairs = [], {}
  for match in re.finditer(r"\\.|[{}]", text):
    if match[0] == "{":
      stack.append(match.start())
    elif match[0] == "}" and stack:
      pairs[stack.pop()] = match.start()
  return pairs


@dataclasses.dataclass(frozen=True)
class Answer:
  """An answer as it is compared: a number, several within brackets, or text."""

  text: str
  number: Fraction | None = None
  parts: tuple["Answer", ...] = ()

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Answer):
      return NotImplemented
    if self.text == other.text:
      return True
    if self.number is not None and other.number is not None:
      return equal_numbers(self.number, other.number)
    if self.parts and other.parts and self.text[0] == other.text[0]:
      return self.text[-1] == other.text[-1] and self.parts == other.parts
    return False

  __hash__ = None  # type: ignore[assignment]  # what is near is equal, so there is none


def read_answer(text: str) -> Answer:
  """The answer that a text gives, as it is compared; what follows a `####` is the answer."""
  text = text.rpartition("####")[2].strip().strip("$").strip()
  for pattern, plain in _SPELLINGS:
    text = pattern.sub(plain, text)
  text = _UNIT.sub("", text.strip())
  text = _WORDS.sub(r"\1", text)
  text = " ".join(text.split())  # a long run of blanks would be tried from each of its places
  return _read(re.sub(r" ?([^\w\s,]) ?", r"\1", text))


def _read(text: str) -> Answer:
  """The answer that a text gives whose spelling is plain."""
  text = text.strip().rstrip(".") or text
  named = _NAMED.match(text)
  if named and text.count("=") == 1:
    text = text[named.end() :]
  letter = _LETTER.fullmatch(text)
  text = " ".join((letter[1] if letter else text).casefold().split())
  number = _number(text)
  if number is not None:
    return Answer(text, number)
  text = re.sub(r"\s*,\s*", ",", text)  # not before: `32, 349` is no thousands
  return Answer(text, None, _parts(text))


def same_answer(given: str, wanted: str) -> bool:
  """Whether two answers are equal; see the head of the file."""
  return read_answer(given) == read_answer(wanted)


def group_answers(answers: list[str | None]) -> list[str | None]:
  """Equal answers by one name, that of the first, for votes."""
  seen: list[tuple[Answer, str]] = []
  named: list[str | None] = []
  for answer in answers:
    if answer is None:
      named.append(None)
      continue
    read = read_answer(answer)
    name = next((name for other, name in seen if other == read), None)
    if name is None:
      seen.append((read, answer))
    named.append(answer if name is None else name)
  return named


def equal_numbers(a: Fraction, b: Fraction) -> bool:
  """Whether two numbers are equal: exactly if both are whole, and else to nine digits."""
  if a.denominator == b.denominator == 1:
    return a == b
  return abs(a - b) <= max(Fraction(1, 10**9) * max(abs(a), abs(b)), Fraction(1, 10**12))


def _number(text: str) -> Fraction | None:
  """The number that is all of the text, or None."""
  if len(text) > _LONGEST:
    return None
  decimal = _DECIMAL.fullmatch(text)
  if decimal:
    return _decimal(*decimal.groups())
  mixed = _FRACTION.fullmatch(text)
  if mixed:
    sign, whole, above, below = mixed.groups()
    if int(below) == 0 or (whole and above[0] in "+-"):
      return None
    value = int(whole or 0) + Fraction(int(above), int(below))
    return -value if sign == "-" else value
  quotient = _QUOTIENT.fullmatch(text)
  return Fraction(int(quotient[1]), int(quotient[2])) if quotient and int(quotient[2]) else None


def _decimal(sign: str, whole: str, part: str | None, exponent: str | None) -> Fraction | None:
  if not whole and not part:
    return None
  if exponent and abs(int(exponent)) > _EXPONENT:
    return None
  digits = whole.replace(",", "") + (part or "")
  shift = int(exponent or 0) - len(part or "")
  value = Fraction(int(digits)) * Fraction(10) ** shift
  return -value if sign == "-" else value


def _parts(text: str) -> tuple[Answer, ...]:
  """The members of a tuple or an interval, none of which is bracketed itself."""
  if len(text) < 2 or text[0] not in _PAIRS or text[-1] not in ")]" or "," not in text:
    return ()
  inner = text[1:-1]
  if any(c in inner for c in "()[]"):
    return ()
  members = inner.split(",")
  read = {member: _read(member) for member in set(members)}  # a text that runs on repeats its own
  return tuple(read[member] for member in members)
