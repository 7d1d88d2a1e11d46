"""The answers that the minis' thoughts arrive at on their way; see `solutions.py` for their form.

A countdown's are its trials. A chain sum has one wherever a pass over the terms ends, at a word for
`wait` or `check` or with the thought: the running total and the terms still to come, added up. So a
slip that is taken back in mid-chain is a wrong answer and then a right one.
"""

import re
from collections.abc import Sequence

from deepseek_jax.tasks.languages import LANGUAGES, word
from deepseek_jax.tasks.task import Candidate


def _either(*meanings: str) -> str:
  """A pattern of words in every language."""
  return "|".join(word(meaning, language) for meaning in meanings for language in LANGUAGES)


_VERDICT = f"(?:{_either('low', 'high', 'right')})"
_TRIAL = re.compile(
  rf"(?<!\S)(-?[0-9]+(?:\s+-?[0-9]+)*)\s+(?:{_either('vs')})(?!\S)(?:\s+-?[0-9]+(?:\s+{_VERDICT})?)?"
)
_TURN = re.compile(rf"(?<!\S)(?:{_either('wait', 'check')})(?!\S)")
_NUMBER = re.compile(r"(?<!\S)-?[0-9]{1,12}(?!\S)")
_STEP = re.compile(rf"(?<!\S)(-?[0-9]{{1,12}})\s+(?:{_either('makes')})\s+(-?[0-9]{{1,12}})(?!\S)")


def countdown_trials(thought: str) -> list[Candidate]:
  """The signed digits of each trial, `T S T S ... vs TARGET`: the first number and each second."""
  found = []
  for match in _TRIAL.finditer(thought):
    first, *rest = match[1].split()
    if len(rest) % 2 == 0:
      found.append(Candidate(" ".join([first, *rest[::2]]), match.start(), match.end()))
  return found


def chain_sum_passes(thought: str, terms: Sequence[int]) -> list[Candidate]:
  """What each pass leads to; one whose terms are not the problem's at that place has no answer."""
  turns = list(_TURN.finditer(thought))
  begins = [0, *(turn.end() for turn in turns)]
  ends = [*(turn.start() for turn in turns), len(thought)]
  found, taken = [], 1  # of the terms
  for begin, end in zip(begins, ends, strict=True):
    steps = list(_STEP.finditer(thought, begin, end))
    first = _NUMBER.search(thought, begin, end)
    if not steps or first is None:
      continue
    added = [int(step[1]) for step in steps]
    anew = int(first[0]) == terms[0] and list(terms[1 : 1 + len(added)]) == added
    if not anew and list(terms[taken - 1 : taken - 1 + len(added)]) != added:
      continue  # else the last step is taken back
    taken = (1 if anew else taken - 1) + len(added)
    total = int(steps[-1][2]) + sum(terms[taken:])
    found.append(Candidate(str(total), first.start(), steps[-1].end()))
  return found
