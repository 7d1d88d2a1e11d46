"""Worked solutions of `arithmetic.py` of uneven quality, for a pretrained model's first tuning.

They teach the form and ways to reckon, and leave something to be selected: a quarter are guesses, a
tenth lack the tags, and of the steps of the others some slip.

  <think> 47 + 8: 47 + 3 = 50, 50 + 5 = 55 </think> <answer> 55 </answer>
  <think> 53 - 9: 53 - 3 = 50, 50 - 6 = 44 </think> <answer> 44 </answer>
  <think> 4 * 7: 7, 14, 21, 28 </think> <answer> 28 </answer>
  <think> half of 34: half of 30 is 15, half of 4 is 2, 15 + 2 = 17 </think> <answer> 17 </answer>
  <think> 56 or 65: 5 tens or 6 tens, 65 is larger </think> <answer> 65 </answer>
"""

import random

from deepseek_jax.tasks.arithmetic import Question

KINDS = {"bare": 0.25, "steps": 0.65, "untagged": 0.10}
SLIP = 0.08  # per number that is reckoned


def write_arithmetic(question: Question, rng: random.Random) -> str:
  """A completion, right or wrong, tagged or not; it depends on `rng` alone."""
  kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
  if kind == "bare":
    return _tagged("", _guess(question, rng))
  thought, answer = _Reckoning(rng).of(question)
  if kind == "untagged":
    return f"{thought}. The answer is {answer}."
  return _tagged(thought, answer)


def _tagged(thought: str, answer: int) -> str:
  return f"<think> {thought}{' ' if thought else ''}</think> <answer> {answer} </answer>"


def _guess(question: Question, rng: random.Random) -> int:
  """One of the two numbers of a comparison; else a number near the right one."""
  if question.kind == "compare":
    return rng.choice((question.a, question.b))
  return question.answer + round(rng.gauss(0, 3))


class _Reckoning:
  """Steps to an answer, each of whose numbers may slip."""

  def __init__(self, rng: random.Random) -> None:
    self._rng = rng

  def of(self, question: Question) -> tuple[str, int]:
    """The thought, and the answer that it comes to."""
    a, b = question.a, question.b
    match question.kind:
      case "add":
        return self._over_the_ten(a, b, 1)
      case "subtract":
        return self._over_the_ten(a, b, -1)
      case "multiply":
        return self._multiples(a, b)
      case "halve":
        return self._halves(a)
    larger = max(a, b) if a // 10 == b // 10 or self._rng.random() > SLIP else min(a, b)
    digits = "ones" if a // 10 == b // 10 else "tens"
    x, y = (a % 10, b % 10) if digits == "ones" else (a // 10, b // 10)
    return f"{a} or {b}: {x} {digits} or {y} {digits}, {larger} is larger", larger

  def _number(self, value: int) -> int:
    """A number as it is reckoned."""
    return value + (self._rng.choice((-2, -1, 1, 2)) if self._rng.random() < SLIP else 0)

  def _over_the_ten(self, a: int, b: int, sign: int) -> tuple[str, int]:
    """a + b or a - b: as far as the next ten, then the rest."""
    mark = "+" if sign > 0 else "-"
    first = (-a % 10) if sign > 0 else a % 10
    if first == 0 or first >= b:
      answer = self._number(a + sign * b)
      return f"{a} {mark} {b} = {answer}", answer
    ten = a + sign * first
    rest = self._number(b - first)
    answer = self._number(ten + sign * rest)
    return f"{a} {mark} {b}: {a} {mark} {first} = {ten}, {ten} {mark} {rest} = {answer}", answer

  def _multiples(self, a: int, b: int) -> tuple[str, int]:
    """a * b: the multiples of b, one by one."""
    total, row = 0, []
    for _ in range(a):
      total = self._number(total + b)
      row.append(total)
    return f"{a} * {b}: {', '.join(map(str, row))}", total

  def _halves(self, a: int) -> tuple[str, int]:
    """Half of a: that of its even tens, that of the rest, and their sum."""
    tens = a // 20 * 20
    x, y = tens // 2, self._number((a - tens) // 2)
    answer = self._number(x + y)
    return f"half of {a}: half of {tens} is {x}, half of {a - tens} is {y}, {x} + {y} = {answer}", (
      answer
    )
