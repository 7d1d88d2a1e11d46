"""Words with which a thought turns back on itself, in both languages.

The list is the one whose frequency R1's paper follows over R1-Zero's training (2501.12948,
supplement on "aha" moments: wait, mistake, however, but, retry, error, verify, wrong, evaluate,
check), with their Chinese counterparts.
"""

import collections
import re
from typing import NamedTuple

# Meaning -> its words. Latin words are matched whole and in any case; Han words anywhere.
REFLECTION: dict[str, tuple[str, ...]] = {
  "wait": ("wait", "等等", "等一下"),
  "mistake": ("mistake", "mistakes", "失误"),
  "however": ("however", "然而"),
  "but": ("but", "但是", "不过"),
  "retry": ("retry", "重试", "再试"),
  "error": ("error", "errors", "错误"),
  "verify": ("verify", "验证", "核实"),
  "wrong": ("wrong", "不对", "错了"),
  "evaluate": ("evaluate", "评估"),
  "check": ("check", "checks", "checking", "检查"),
}

_MEANING = {word: meaning for meaning, words in REFLECTION.items() for word in words}
_LATIN = "|".join(word for word in _MEANING if word.isascii())
_HAN = "|".join(sorted((w for w in _MEANING if not w.isascii()), key=len, reverse=True))
_PATTERN = re.compile(rf"(?<![A-Za-z])(?:{_LATIN})(?![A-Za-z])|{_HAN}", re.IGNORECASE)


class Word(NamedTuple):
  """A reflection word, and the characters where it stands."""

  meaning: str
  start: int
  end: int


def find_reflection(text: str) -> list[Word]:
  """The reflection words of a text, in order."""
  found = _PATTERN.finditer(text)
  return [Word(_MEANING[match[0].lower()], match.start(), match.end()) for match in found]


def count_reflection(text: str) -> collections.Counter[str]:
  """How often each meaning of `REFLECTION` occurs in a text."""
  return collections.Counter(word.meaning for word in find_reflection(text))
