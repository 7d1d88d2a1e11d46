"""The verifiers of the mini tasks: agreement with reasoning-gym, and attempts to fool them."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.tasks.chain_sum import ChainSum, chain_sum_problem
from deepseek_jax.tasks.countdown import Countdown, countdown_problem, parse_terms
from deepseek_jax.tasks.response import parse_response, thought_of

GOAL = countdown_problem((3, 7, 2), 8, "en")  # 3 + 7 - 2
SUM = chain_sum_problem((3, -7, 2, 5), "zh")


def completion(answer: str, thought: str = "") -> str:
  return f"<think> {thought} </think> <answer> {answer} </answer>"


@pytest.mark.parametrize("answer", ["3 7 -2", "3+7-2", "3 + 7 - 2", " +3 +7 -2 ", "3 + 7 -2"])
def test_countdown_accepts_every_way_to_write_the_sum(answer):
  score = Countdown().score(GOAL, completion(answer))
  assert (score.correct, score.format) == (1.0, 1.0)


@pytest.mark.parametrize(
  "answer",
  [
    "",
    "8",  # the target itself
    "3 7 2",  # another sum
    "7 3 -2",  # out of order
    "3 7 -2 0",  # a digit too many
    "3 5",  # right sum of other digits
    "10 -2",  # digits joined into their total
    "3 7 -2 = 8",
    "3 7 - - 2",
    "3 7 -2 or 3 -7 2",
    "(3 + 7) - 2",
    "3 7 −2",  # a typographic minus
    "٣ 7 -2",  # digits of another script
    "3 7 -2 " + "1 -1 " * 50,
    "__import__('os')",
  ],
)
def test_countdown_refuses(answer):
  score = Countdown().score(GOAL, completion(answer))
  assert (score.correct, score.format) == (0.0, 1.0)


GOOD = "<think> 3 7 </think> <answer> 3 7 -2 </answer>"


@pytest.mark.parametrize(
  "text",
  [
    "",
    "3 7 -2",
    "<answer> 3 7 -2 </answer>",
    "<think> <answer> 3 7 -2 </answer>",  # the thought is not closed
    "<think> </think> <answer> 3 7 -2",  # cut off
    "<think> <answer> 3 7 -2 </answer> </think>",  # the answer is a thought
    "</think> <think> <answer> 3 7 -2 </answer>",
    GOOD + " <answer> 3 -7 2 </answer>",  # several answers
    GOOD + GOOD,
    "<think> <think> </think> <answer> 3 7 -2 </answer>",
    GOOD + " and so on",
    "so " + GOOD,
    "<think> </think> therefore <answer> 3 7 -2 </answer>",
    "<THINK> </THINK> <answer> 3 7 -2 </answer>",
  ],
)
def test_broken_form_is_neither_formatted_nor_correct(text):
  score = Countdown().score(GOAL, text)
  assert (score.correct, score.format) == (0.0, 0.0)


def test_the_good_form_is_the_one_the_broken_ones_are_made_of():
  assert Countdown().score(GOAL, GOOD).correct == 1.0


@pytest.mark.parametrize(
  "text",
  [
    "<think> " + "3 7 " * 500_000,
    "<think>" * 200_000,
    "<think> </think> <answer> " + "3 + " * 300_000 + "</answer>",
    "<think> </think> <answer> " + "3" * 1_000_000 + " </answer>",
    "<" * 1_000_000,
  ],
)
def test_huge_texts_are_judged_in_no_time(text):
  start = time.process_time()
  assert Countdown().score(GOAL, text).correct == 0.0
  assert ChainSum().score(SUM, text).correct == 0.0
  assert time.process_time() - start < 3.0


@given(st.text(max_size=200))
def test_any_text_is_safe_and_wrong_unless_it_has_the_form(text):
  for task, problem in ((Countdown(), GOAL), (ChainSum(), SUM)):
    score = task.score(problem, text)
    assert score.format == float(parse_response(text) is not None)
    assert score.correct <= score.format
    assert 0.0 <= score.language <= 1.0


@given(st.lists(st.integers(-999, 999), min_size=1, max_size=8))
def test_terms_survive_writing_with_and_without_spaces(terms):
  spaced = " ".join(map(str, terms))
  joined = "".join(f"{term:+d}" for term in terms)
  assert parse_terms(spaced) == parse_terms(joined) == tuple(terms)


@pytest.mark.parametrize("answer, right", [("3", 1.0), ("+3", 1.0), ("03", 1.0), ("-3", 0.0)])
def test_chain_sum_judges_the_integer(answer, right):
  assert ChainSum().score(SUM, completion(answer)).correct == right


@pytest.mark.parametrize("answer", ["", "3 3", "3 or 4", "3.5", "1+2", "three", "٣", "9" * 5000])
def test_chain_sum_refuses_what_is_no_single_integer(answer):
  score = ChainSum().score(SUM, completion(answer))
  assert (score.correct, score.format) == (0.0, 1.0)


def test_the_thought_of_a_broken_completion_is_found_too():
  assert thought_of("<think> 3 wait") == "3 wait"
  assert thought_of("3 等等 4") == "3 等等 4"
  assert thought_of(GOOD) == "3 7"


def test_countdown_agrees_with_reasoning_gym_on_every_signing():
  gym = pytest.importorskip("reasoning_gym").create_dataset("countdown", size=1, seed=0)
  for digits, target in (((3, 7, 2), 8), ((9, 9, 1, 4), 3), ((5, 5, 5), 5)):
    problem = countdown_problem(digits, target, "en")
    entry = {"metadata": {"numbers": list(digits), "target": target}}
    for signs in itertools.product("+-", repeat=len(digits)):
      answer = " ".join(f"{sign} {digit}" for sign, digit in zip(signs, digits))
      ours = Countdown().score(problem, completion(answer)).correct
      assert (ours == 1.0) == (gym.score_answer(answer, entry) == 1.0), answer


def test_chain_sum_agrees_with_reasoning_gym_around_its_own_answers():
  pytest.importorskip("reasoning_gym")
  import reasoning_gym

  gym = reasoning_gym.create_dataset(
    "chain_sum", size=20, seed=1, min_terms=4, max_terms=8, min_digits=1, max_digits=1
  )
  for entry in gym:
    expression = entry["metadata"]["expression"]
    terms = parse_terms(expression)
    problem = chain_sum_problem(terms, "en")
    assert problem.answer == entry["answer"]
    for shift in (-1, 0, 1):
      answer = str(int(entry["answer"]) + shift)
      ours = ChainSum().score(problem, completion(answer)).correct
      assert (ours == 1.0) == (gym.score_answer(answer, entry) == 1.0), (expression, answer)
