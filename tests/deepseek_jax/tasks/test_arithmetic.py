"""Arithmetic in plain English: questions, both ways to judge, worked solutions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.tasks.arithmetic import KINDS, Arithmetic, Question, last_number
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.tasks.scoring import score_each
from deepseek_jax.tasks.solutions import write_solution
from deepseek_jax.tasks.task import Score, stream

TASK = Arithmetic()
SUM = next(
  p for i in range(99) if (p := TASK.sample("train", i, 0)).data.kind == "add" and p.data.a > 20
)
RIGHT = SUM.answer


def value(question: Question) -> int:
  """The answer read off the words of the question."""
  words = question.text.rstrip("?").replace(",", "").split()
  if question.kind == "compare":
    return max(int(words[-3]), int(words[-1]))
  if question.kind == "halve":
    return round(int(words[-1]) / 2)
  a, sign, b = words[-3:]
  return {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]


@given(st.integers(0, 10**6), st.integers(0, 99), st.sampled_from(["train", "heldout"]))
def test_the_answer_is_what_the_question_asks_and_splits_share_nothing(index, seed, split):
  problem = TASK.sample(split, index, seed)
  assert problem.answer == str(value(problem.data))
  assert problem == TASK.sample(split, index, seed)
  other = {TASK.sample("heldout" if split == "train" else "train", i, seed).key for i in range(20)}
  assert problem.key not in other


def test_all_kinds_are_asked_equally_often():
  kinds = [TASK.sample("train", i, 1).data.kind for i in range(2000)]
  assert all(0.16 < kinds.count(kind) / len(kinds) < 0.24 for kind in KINDS)


@pytest.mark.parametrize(
  "text, correct, said",
  [
    (f"<think> so </think> <answer> {RIGHT} </answer>", 1, 1),
    (f"<think>{RIGHT}</think><answer>{RIGHT}</answer>", 1, 1),
    (f"The answer is {RIGHT}.", 0, 1),
    (f"The answer is **{RIGHT}**, which is right.", 0, 1),
    (f"{RIGHT}", 0, 1),
    (f"<think> {RIGHT} </think> <answer> 1 </answer>", 0, 0),
    (f"<think> </think> <answer> {RIGHT} or 7 </answer>", 0, 0),
    (f"<think> </think> <answer> {RIGHT}.0 </answer>", 0, 0),
    (f"<think> </think> <answer> 1{RIGHT} </answer>", 0, 0),
    (f"<think> </think> <answer> {RIGHT}7 </answer>", 0, 0),
    (f"-{RIGHT}", 0, 0),
    (f"It is {RIGHT} and not 7", 0, 0),
    (f"x{RIGHT}", 0, 0),
    ("", 0, 0),
    ("٤٢", 0, 0),
    ("9" * 5000, 0, 0),
    ("<answer>" * 1000, 0, 0),
  ],
)
def test_strict_and_lenient_judgement(text, correct, said):
  score = TASK.score(SUM, text)
  assert (score.correct, score.said) == (correct, said)


@given(st.text())
def test_any_text_is_safe_to_judge(text):
  score = TASK.score(SUM, text)
  assert score.correct in (0, 1) and score.said in (0, 1)


@given(st.lists(st.integers(-(10**8), 10**8), min_size=1, max_size=5))
def test_the_last_number_is_the_one_said_last(numbers):
  assert last_number(" then ".join(map(str, numbers)) + ".") == numbers[-1]


def test_a_solution_is_as_good_as_what_it_says():
  counts = {kind: [] for kind in KINDS}
  for i in range(2000):
    problem = TASK.sample("train", i, 3)
    text = write_solution(problem, stream(3, "solution", i))
    assert text == write_solution(problem, stream(3, "solution", i))
    counts[problem.data.kind].append(TASK.score(problem, text))
  for kind, scores in counts.items():
    right = sum(s.correct for s in scores) / len(scores)
    assert 0.35 < right < 0.85, kind  # something to learn, something to gain
    assert 0.85 < sum(s.format for s in scores) / len(scores) < 0.95


def test_without_slips_every_thought_is_right(monkeypatch):
  monkeypatch.setattr("deepseek_jax.tasks.arithmetic_solutions.SLIP", 0.0)
  monkeypatch.setattr("deepseek_jax.tasks.arithmetic_solutions.KINDS", {"steps": 1.0})
  for i in range(1000):
    problem = TASK.sample("train", i, 4)
    assert TASK.score(problem, write_solution(problem, stream(4, i))).correct == 1


class Odd(Arithmetic):
  """A user's task whose `said` is no share."""

  def score(self, problem, text):
    return Score(1.0, 1.0, 1.0, said=7.0)


def test_said_is_checked_as_the_other_figures_are():
  assert score_each(Odd(), [SUM], ["1"])[0].failed == "range"
  assert load_task("arithmetic") == TASK
