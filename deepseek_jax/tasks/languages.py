"""The words of the mini tasks in their two languages, and the share of a text in one of them."""

import re

# Meaning -> word; every word is one token of the word tokenizer.
WORDS: dict[str, dict[str, str]] = {
  "en": {
    "make": "make",
    "from": "from",
    "sum": "sum",
    "makes": "makes",
    "vs": "vs",
    "low": "low",
    "high": "high",
    "right": "right",
    "wait": "wait",
    "check": "check",
  },
  "zh": {
    "make": "凑",
    "from": "用",
    "sum": "求和",
    "makes": "得",
    "vs": "比",
    "low": "低",
    "high": "高",
    "right": "对",
    "wait": "等等",
    "check": "检查",
  },
}
LANGUAGES = tuple(WORDS)

_KNOWN_ZH = frozenset(WORDS["zh"].values())
_RUNS = re.compile(r"<[^<>\s]{1,40}>|([A-Za-z]+)|([\u3400-\u4dbf\u4e00-\u9fff]+)")


def word(meaning: str, language: str) -> str:
  """The word for `meaning`, a key of `WORDS['en']`."""
  return WORDS[language][meaning]


def count_words(text: str) -> dict[str, int]:
  """Words of each language. Numbers, signs, punctuation and <tags> belong to neither.

  A run of Latin letters is one English word. Chinese is written without spaces, so a run of Han
  characters is one word if the mini tasks know it and else counts a word per two characters.
  """
  counts = {"en": 0, "zh": 0}
  for match in _RUNS.finditer(text):
    latin, han = match.groups()
    if latin:
      counts["en"] += 1
    elif han:
      counts["zh"] += 1 if han in _KNOWN_ZH else (len(han) + 1) // 2
  return counts


def language_share(text: str, language: str) -> float:
  """Words in `language` over words in either (2501.12948, section 2.3.2).

  A text without words, such as the empty thought of a bare guess, is in no wrong language: 1.0.
  Languages other than English and Chinese are not told apart: 1.0.
  """
  counts = count_words(text)
  total = sum(counts.values())
  if total == 0 or language not in counts:
    return 1.0
  return counts[language] / total
