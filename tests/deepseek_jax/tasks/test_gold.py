"""Verifiers held against their tasks' own answers."""

import dataclasses
import re

import pytest

from deepseek_jax.tasks.gold import Gold, check_gold
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.tasks.task import Problem, Score


@dataclasses.dataclass
class Scripted:
  """Numbers 0 to 9, right where the pattern finds the problem's answer."""

  pattern: str
  name: str = "scripted"
  broken: tuple[str, ...] = ()

  def score(self, problem, text):
    if problem.answer in self.broken:
      raise ValueError
    found = re.fullmatch(self.pattern, text)
    right = found and (found.groups() or (problem.answer,))[0] == problem.answer
    return Score(float(bool(right)), 1.0, 1.0)


def numbers(count=10, answer=str):
  return [Problem(str(n), "scripted", str(n), answer=answer(n)) for n in range(count)]


@pytest.mark.parametrize(
  ("pattern", "form"),
  [
    (r".*<answer> (\d) </answer>", "<think> </think> <answer> ANSWER </answer>"),
    (r"\\boxed{(\d)}", "\\boxed{ANSWER}"),
    (r"```python\n(\d)\n```", "```python ANSWER ```"),
    (r"(\d)", "the answer alone"),
  ],
)
def test_the_form_is_the_one_that_is_read(pattern, form):
  assert check_gold(Scripted(pattern), numbers()) == Gold(10, 10, 10, form, 10, 0)


def test_answers_that_are_refused_are_named():
  found = check_gold(Scripted(r"(\d)", broken=("3", "7")), numbers())
  assert (found.accepted, found.refused) == (8, ("'3' of '3'", "'7' of '7'"))


def test_a_verifier_that_takes_anything_is_found_out():
  found = check_gold(Scripted(".*"), numbers())
  assert found.accepted == found.mistaken == found.controls == 10


def test_equal_answers_are_no_control_and_equal_problems_count_once():
  found = check_gold(Scripted(r"(\d)"), numbers(answer=lambda n: "5") * 2)
  assert (found.problems, found.accepted, found.controls) == (10, 10, 0)


def test_problems_without_answers_are_left_alone():
  assert check_gold(Scripted(""), numbers(answer=lambda n: None)) == Gold(10)
  half = check_gold(Scripted(r"(\d)"), numbers(answer=lambda n: str(n) if n % 2 else None))
  assert (half.problems, half.answered, half.accepted) == (10, 5, 5)


def test_our_own_verifiers_accept_their_answers():
  task = load_task("mini")
  problems = [task.sample("train", i, 0) for i in range(60)]
  found = check_gold(task, problems)
  assert 10 < found.answered == found.accepted < found.problems and found.mistaken == 0


def test_those_of_reasoning_gym_do():
  pytest.importorskip("reasoning_gym")
  task = load_task("reasoning_gym:chain_sum")
  found = check_gold(task, [task.sample("train", i, 0) for i in range(6)])
  assert found.answered == found.accepted == 6 and found.mistaken == 0
