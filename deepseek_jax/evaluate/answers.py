r"""Finding the final answer in a completion, and comparing answers.

An answer is a number, an expression or words, in plain text or in LaTeX: `$\frac{1}{2}$`, `1/2` and
`0.5` are one answer, as are `\text{(B)}` and `B`. Numbers are compared exactly where both are whole
and to nine digits elsewhere; everything else as text, after what only sets it (spacing, `\left`,
`\dfrac`) is taken away. A unit, a percent sign or a name (`x =`) may be missing on one side, but
not be another. Nothing is evaluated, and every step takes time linear in the text's length.
"""

import dataclasses
import re
from fractions import Fraction

_LONGEST = 4000  # digits of a number; a longer one is text
_EXPONENT = 400  # of ten, at most
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(\{)|([^\s{}\\$.,;]+))")
_BETWEEN = re.compile(
  r"(?:[\s,;$]|\\[()\[\]]|\\q?quad\b|and\b|or\b|\\text\s?\{\s?(?:and|or)\s?\})*"
)
_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
_DECIMAL = re.compile(rf"([+-]?)({_INTEGER}?)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{{1,4}}))?", re.ASCII)
_FRACTION = re.compile(r"([+-]?)([0-9]*)\\frac\{([^{}]+)\}\{([^{}]+)\}", re.ASCII)
_MIXED = re.compile(r"([+-]?)([0-9]+) ([0-9]+)/([0-9]+)", re.ASCII)
_LAST_NUMBER = re.compile(
  rf"(?<![\w{{\[^\\])-?(?:\$\s?)?(?:{_INTEGER}(?:\.[0-9]+)?|\.[0-9]+)(?![\w}}])", re.ASCII
)
_SPELLINGS = (
  (re.compile("[\u2212\u2013\ufe63\uff0d]"), "-"),
  (re.compile(r"\\[dtc]frac"), r"\\frac"),
  (re.compile(r"\\(frac|sqrt)\s?([0-9])(?![0-9{])"), r"\\\1{\2}"),
  (re.compile(r"\\frac\s?([0-9])\s?([0-9])|\\frac\{([0-9])\}\s?([0-9])"), r"\\frac{\1\3}{\2\4}"),
  (re.compile(r"([\^_])\{(\w)\}"), r"\1\2"),
  (re.compile(r"\\(ne|le|ge)(?![A-Za-z])"), r"\\\1q"),
  (re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\[,;:! ])\s?(?=[0-9]{3}(?![0-9]))"), ""),
  (re.compile(r"\{,\}|,\\!\s?"), ","),
  (re.compile(r"(?<=[0-9}])\s?(?:percentage|percent|pct)\b"), "%"),
  (re.compile(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])"), ""),
  (re.compile(r"\\[,;:!]|\\ |~"), " "),
  (re.compile(r"\^\s?(?:\{\s?\\circ\s?\}|\\circ)|\\degree|°"), ""),
  (re.compile(r"\\[()\[\]]"), ""),
)
TEXT_COMMANDS = r"\\(?:text|textbf|textit|textnormal|mathrm|mathbf|mbox)"
_WORDS = re.compile(TEXT_COMMANDS + r"\s?\{([^{}]*)\}")
_POWER = r"(\s?\^\{?[23]\}?)?"
_SET_UNIT = re.compile(rf"(?<=[\w}})])\s?{TEXT_COMMANDS}\s?\{{([^{{}}]*)\}}{_POWER}$")
_PLAIN_UNIT = re.compile(
  r"(?<=[0-9}]) ((?:square |cubic )?(?:mm|cm|km|kg|mg|ml|ft|lbs?|oz|mph|inch(?:es)?|feet|foot"
  r"|yards?|miles?|met(?:er|re)s?|lit(?:er|re)s?|grams?|seconds?|minutes?|hours?|days?|weeks?"
  rf"|months?|years?|dollars?|cents?|degrees?|units?)){_POWER}$"
)
# Words behind a number that say another number, or more than what is counted.
_NO_UNITS = frozenset(
  (
    *("dozen", "hundred", "thousand", "million", "billion", "trillion", "half", "halves", "third"),
    *("thirds", "quarter", "quarters", "fourths", "fifths", "sixths", "tenths", "am", "pm", "pi"),
    *("north", "south", "east", "west", "up", "down", "or", "and", "to", "of", "at", "by", "more"),
    *("less", "least", "most", "about", "than", "not", "no", "mod", "modulo", "base", "squared"),
    *("cubed", "factorial", "choose", "plus", "minus", "times", "over", "if", "when", "for"),
    *("all", "real"),
  )
)
_UNIT_LETTERS = frozenset("mgshlnjwvk")  # of physics; `\mathrm{i}` and `\mathbf{j}` are no units
_NAMED = re.compile(r"([A-Za-z])\s?=\s?(?=[^=])(?![A-Za-z]$)")
_BRACKETED = re.compile(r"\(([A-Za-z]|-?[0-9]+(?:\.[0-9]+)?)\)", re.ASCII)
_PAIRS = {"(": ")", "[": "]"}


def extract_answer(text: str) -> str | None:
  """The answer: between answer tags, or else in the last closed box behind the thought; or None.

  Of tags there must be one pair there. A box around all that stands between them is taken off. In a
  thought that has not ended there is no answer.
  """
  behind = text.rpartition("</think>")[2]
  if "<think>" in behind:
    return None
  before, opened, rest = behind.partition("<answer>")
  answer, closed, after = rest.partition("</answer>")
  if not closed or any("answer>" in other for other in (before, answer, after)):
    return None if opened and closed else last_box(behind)
  inner = last_box(answer)
  whole = inner is not None and answer.strip("$ \n").startswith("\\")
  return inner if whole else answer.strip()


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
  unit: str = ""  # `cm`, `%`, `$`; empty if there is none
  name: str = ""  # x of `x = 5`

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Answer):
      return NotImplemented
    mine, theirs = (self.unit, self.name), (other.unit, other.name)
    if any(a and b and a != b for a, b in zip(mine, theirs, strict=True)):
      return False
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
  text = " ".join(text.rpartition("####")[2].split())  # long runs of blanks would take long below
  if text.startswith("**") and text.endswith("**"):
    text = text.strip("*").strip()
  money = "\\$" in text or (text.startswith("$") and text.count("$") == 1)
  text = text.replace("\\$", "").replace("$", "").strip()
  for pattern, plain in _SPELLINGS:
    text = pattern.sub(plain, text)
  text, unit = _without_unit(text.strip())
  percent = "%" in text
  text = " ".join(_WORDS.sub(r"\1", text.replace("\\%", "").replace("%", "")).split())
  answer = _read(re.sub(r" ?([^\w\s,]) ?", r"\1", text))
  return dataclasses.replace(answer, unit=unit or ("%" if percent else "$" if money else ""))


def _without_unit(text: str) -> tuple[str, str]:
  """A text without the unit at its end, and the unit."""
  for pattern in (_SET_UNIT, _PLAIN_UNIT):
    match = pattern.search(text, max(0, len(text) - _LONGEST))
    words = re.findall(r"[^\W\d_]+", match[1].casefold()) if match else []
    if match and words and all(map(_may_be_unit, words)) and len(words) <= 3:
      power = re.sub(r"\D", "", match[2] or "")
      return text[: match.start()].strip(), " ".join(_singular(word) for word in words) + power
  return text, ""


def _may_be_unit(word: str) -> bool:
  return word not in _NO_UNITS and (len(word) > 1 or word in _UNIT_LETTERS)


def _singular(word: str) -> str:
  return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _read(text: str) -> Answer:
  """The answer that a text gives whose spelling is plain."""
  text = text.strip()
  if text.endswith(".") and not text.endswith(("..", " .")) and text != ".":
    text = text[:-1]
  named = _NAMED.match(text)
  if named and text.count("=") == 1:
    name, text = named[1].casefold(), text[named.end() :]
  else:
    name = ""
  bracketed = _BRACKETED.fullmatch(text)
  text = " ".join((bracketed[1] if bracketed else text).casefold().split())
  number = _number(text)
  if number is not None:
    return Answer(text, number, name=name)
  text = re.sub(r" ?, ?", ",", text)  # not before: `32, 349` is no thousands
  return Answer(text, None, _parts(text), name=name)


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
  return abs(a - b) <= Fraction(1, 10**9) * max(abs(a), abs(b))


def _number(text: str) -> Fraction | None:
  """The number that is all of the text, or None."""
  if len(text) > _LONGEST:
    return None
  if _DECIMAL.fullmatch(text):
    return _decimal(text)
  fraction = _FRACTION.fullmatch(text) or _MIXED.fullmatch(text)
  if fraction:
    sign, whole, above, below = fraction.groups()
    part = _quotient(above, below)
    if part is None or (whole and (part < 0 or not (above + below).isdigit())):
      return None
    value = int(whole or 0) + part
    return -value if sign == "-" else value
  above, slash, below = text.partition("/")
  return _quotient(above, below) if slash else None


def _quotient(above: str, below: str) -> Fraction | None:
  """The quotient of two decimal numbers, or None."""
  values = _decimal(above), _decimal(below)
  return values[0] / values[1] if values[0] is not None and values[1] else None


def _decimal(text: str) -> Fraction | None:
  """The decimal number that is all of the text, or None."""
  match = _DECIMAL.fullmatch(text)
  if not match:
    return None
  sign, whole, part, exponent = match.groups()
  if not whole and not part or exponent and abs(int(exponent)) > _EXPONENT:
    return None
  digits = whole.replace(",", "") + (part or "")
  shift = int(exponent or 0) - len(part or "")
  value = Fraction(int(digits)) * Fraction(10) ** shift
  return -value if sign == "-" else value


def _parts(text: str) -> tuple[Answer, ...]:
  """The members of a tuple or an interval, none of which is bracketed itself.

  One with a zero before other digits is text: `(1,000)` may be one number or two.
  """
  if len(text) < 2 or text[0] not in _PAIRS or text[-1] not in ")]" or "," not in text:
    return ()
  inner = text[1:-1]
  if any(c in inner for c in "()[]"):
    return ()
  members = inner.split(",")
  # A text that runs on repeats its own.
  read = {m: Answer(m) if re.match(r"0[0-9]", m) else _read(m) for m in set(members)}
  return tuple(read[member] for member in members)
