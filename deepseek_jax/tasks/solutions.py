"""Worked solutions of uneven quality, in two languages: the text that minis are pre-trained on.

Reinforcement can only select among behaviours that the base model has. Here about half of the
solutions are guesses, others are careless, some search, redo or check, and some lack the tags, so
that there is something to be selected: what a model trained on them most likely does is to guess.
A trial of a countdown writes each digit with its sign and the running total, and spells out how the
total compares with the target, without which a hit is not noticed:

  <think> 3 -7 -4 2 -2 vs 8 low wait 3 7 10 -2 8 vs 8 right </think> <answer> 3 7 -2 </answer>

A chain sum goes term by term: `3 -7 makes -4 2 makes -2`. Under a policy (guarded.py) that is cited
first and the terms are held against it: to the first that it guards, `check 3 6 vs 5 -6 wait`, or,
if none is guarded, to the last, `check 3 6 vs 5 -7 right 5 -7 makes -2`; some solutions forget it.
The words are those of the prompt's
language; one solution in five changes to the other language at some word and stays there.
"""

import random
from collections.abc import Sequence

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks import arithmetic, chain_sum, countdown, guarded
from deepseek_jax.tasks.arithmetic_solutions import write_arithmetic
from deepseek_jax.tasks.languages import LANGUAGES, word
from deepseek_jax.tasks.task import Problem

SWITCH_SHARE = 0.2
COUNTDOWN_KINDS = {"bare": 0.48, "tries": 0.22, "search": 0.20, "untagged": 0.10}
CHAIN_SUM_KINDS = {
  "bare": 0.48,
  "sloppy": 0.18,
  "clean": 0.05,
  "redo": 0.08,
  "check": 0.11,
  "untagged": 0.10,
}
GUARDED_KINDS = {"deliberate": 0.8, "careless": 0.2}
STOP_AFTER_MISS = 0.5  # of tries
LONGEST_TRIES = 80  # tokens, after which careless tries stop whatever the dice say
SLIP = 0.10  # per step of a sloppy chain


def write_solution(problem: Problem, rng: random.Random) -> str:
  """A completion of a mini problem, right or wrong, tagged or not; it depends on `rng` alone.

  Those of arithmetic in plain English are `arithmetic_solutions.write_arithmetic`'s.

  Raises:
    ConfigError: the problem is of another task.
  """
  if problem.task == arithmetic.NAME:
    return write_arithmetic(problem.data, rng)
  if problem.task == countdown.NAME:
    thought, answer, tagged = _countdown(problem.data, rng)
  elif problem.task == chain_sum.NAME:
    thought, answer, tagged = _chain_sum(problem.data, rng)
  elif problem.task == guarded.NAME:
    thought, answer, tagged = _guarded(problem.data, rng)
  else:
    raise ConfigError(
      f"no worked solutions are written for the task {problem.task!r}; use mini, countdown, "
      "chain_sum, arithmetic, guarded or policies as data.task."
    )
  body = _in_words(thought, problem.language, rng)
  if not tagged:
    return " ".join([*body, *map(str, answer)])
  return " ".join(["<think>", *body, "</think>", "<answer>", *map(str, answer), "</answer>"])


Thought = list[str | int]  # integers, and meanings that become words of a language
Written = tuple[Thought, Sequence[int | str], bool]  # thought, answer, with tags


def _draw(kinds: dict[str, float], rng: random.Random) -> str:
  return rng.choices(tuple(kinds), tuple(kinds.values()))[0]


def _countdown(data: countdown.CountdownData, rng: random.Random) -> Written:
  """A guess, tries that may repeat and give up, a search in order, or one trial without tags."""
  kind = _draw(COUNTDOWN_KINDS, rng)
  if kind == "bare":
    return [], _random_signs(data.digits, rng), True
  if kind == "untagged":
    terms = _random_signs(data.digits, rng)
    return _trial(terms, data.target), terms, False
  thought: Thought = []
  in_order = iter(_all_signs(data.digits))
  while True:
    terms = next(in_order) if kind == "search" else _random_signs(data.digits, rng)
    thought += _trial(terms, data.target)
    tired = kind == "tries" and (rng.random() < STOP_AFTER_MISS or len(thought) > LONGEST_TRIES)
    if sum(terms) == data.target or tired:
      return thought, terms, True
    thought.append("wait")


def _all_signs(digits: Sequence[int]) -> list[tuple[int, ...]]:
  """Every choice of signs behind the first digit, which stays positive."""
  rows: list[tuple[int, ...]] = [(digits[0],)]
  for digit in digits[1:]:
    rows = [(*row, sign * digit) for row in rows for sign in (1, -1)]
  return rows


def _random_signs(digits: Sequence[int], rng: random.Random) -> tuple[int, ...]:
  return (digits[0], *(rng.choice((1, -1)) * digit for digit in digits[1:]))


def _trial(terms: Sequence[int], target: int) -> Thought:
  """Signed digits each followed by the running total, then the comparison with the target."""
  total = terms[0]
  steps: Thought = [total]
  for term in terms[1:]:
    total += term
    steps += [term, total]
  verdict = "right" if total == target else "low" if total < target else "high"
  return [*steps, "vs", target, verdict]


def _chain_sum(terms: tuple[int, ...], rng: random.Random) -> Written:
  """A guess, steps with or without slips, a slip redone, or steps checked by a second pass."""
  kind = _draw(CHAIN_SUM_KINDS, rng)
  right = sum(terms)
  if kind == "bare":
    return [], (right + round(rng.gauss(0, 3)),), True
  if kind == "redo":
    return _redone(terms, rng), (right,), True
  slip = 0.0 if kind == "clean" else SLIP
  thought, total = _steps(terms, slip, rng)
  if kind == "check":
    again, second = _steps(terms, 0.0, rng)
    thought += ["check", *again]
    if second == total:
      thought.append("right")
    else:
      thought += ["wait", *again]
      total = second
  return thought, (total,), kind != "untagged"


def _steps(terms: Sequence[int], slip: float, rng: random.Random) -> tuple[Thought, int]:
  """`T T makes S T makes S ...`, each step going wrong with probability `slip`, and the end."""
  total = terms[0]
  thought: Thought = [total]
  for term in terms[1:]:
    total += term
    if rng.random() < slip:
      total += _error(rng)
    thought += [term, "makes", total]
  return thought, total


def _redone(terms: Sequence[int], rng: random.Random) -> Thought:
  """Right steps but for one slip, noticed at once: `T makes WRONG wait T makes S`."""
  slipping = rng.randrange(1, len(terms))
  total = terms[0]
  thought: Thought = [total]
  for i, term in enumerate(terms[1:], start=1):
    if i == slipping:
      thought += [term, "makes", total + term + _error(rng), "wait", total]
    total += term
    thought += [term, "makes", total]
  return thought


def _error(rng: random.Random) -> int:
  return rng.choice((-2, -1, 1, 2))


def _guarded(data: guarded.GuardedData, rng: random.Random) -> Written:
  """Steps without a slip, and unless the policy is forgotten, the terms held against it before."""
  steps, total = _steps(data.terms, 0.0, rng)
  if not data.private or _draw(GUARDED_KINDS, rng) == "careless":
    return steps, (total,), True
  cited: Thought = ["check", *data.private, "vs"]
  if not data.touched:
    return [*cited, *data.terms, "right", *steps], (total,), True
  found = next(i for i, term in enumerate(data.terms) if abs(term) in data.private)
  return [*cited, *data.terms[: found + 1], "wait"], (guarded.REFUSAL,), True


def _in_words(thought: Thought, language: str, rng: random.Random) -> list[str]:
  """Spells the meanings out, in the other language from some word on if the dice say so."""
  words = sum(isinstance(part, str) for part in thought)
  switch = words
  if words and rng.random() < SWITCH_SHARE:
    switch = rng.randrange(words)
  other = next(name for name in LANGUAGES if name != language)
  spelled, seen = [], 0
  for part in thought:
    if isinstance(part, str):
      spelled.append(word(part, language if seen < switch else other))
      seen += 1
    else:
      spelled.append(str(part))
  return spelled
