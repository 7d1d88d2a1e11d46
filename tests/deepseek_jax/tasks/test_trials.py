"""The answers that the minis' thoughts arrive at, held against the solutions that are written."""

import pytest

from deepseek_jax.evaluate.answers import same_answer
from deepseek_jax.tasks.chain_sum import ChainSum, chain_sum_problem
from deepseek_jax.tasks.countdown import Countdown, countdown_problem
from deepseek_jax.tasks.languages import WORDS
from deepseek_jax.tasks.mixture import Mixture, mini_mixture
from deepseek_jax.tasks.response import parse_response, thought_of
from deepseek_jax.tasks.solutions import write_solution
from deepseek_jax.tasks.task import stream
from deepseek_jax.tasks.trials import chain_sum_passes, countdown_trials

TASKS = {"countdown": Countdown(), "chain_sum": ChainSum(3, 6)}


def written(name, count=600):
  """Problems, their tagged solutions' thoughts and answers, and the candidates in the thoughts."""
  task = TASKS[name]
  for i in range(count):
    problem = task.sample("train", i, 0)
    response = parse_response(write_solution(problem, stream(0, "solution", i)))
    if response is not None and response.thought:
      yield problem, response, task.candidates(problem, response.thought)


def says(words, *meanings):
  """How many of the words have one of the meanings in either language."""
  return sum(words.count(table[meaning]) for table in WORDS.values() for meaning in meanings)


def right(problem, answer):
  score = TASKS[problem.task].score(problem, f"<think> </think> <answer> {answer} </answer>")
  return score.correct == 1


def test_every_trial_of_a_countdown_is_a_candidate_and_its_verdict_is_the_verifiers():
  seen = set()
  for problem, response, candidates in written("countdown"):
    words = response.thought.split()
    assert len(candidates) == says(words, "vs")
    assert candidates[-1].answer == response.answer
    for candidate in candidates:
      last = response.thought[candidate.start : candidate.end].split()[-1]
      verdict = right(problem, candidate.answer)
      assert verdict == (says([last], "right") == 1)
      seen.add((len(candidates) > 1, verdict))
  assert len(seen) == 4, "single and several trials, right and wrong"


def test_a_chain_sum_has_a_candidate_at_every_turn_and_the_last_is_the_answer():
  mended = kept = 0
  for problem, response, candidates in written("chain_sum"):
    turns = says(response.thought.split(), "wait", "check")
    assert len(candidates) == turns + 1
    assert same_answer(candidates[-1].answer, response.answer)
    if turns:
      first, last = (right(problem, candidates[i].answer) for i in (0, -1))
      mended, kept = mended + (last and not first), kept + (last and first)
  assert mended > 20 and kept > 10


def test_a_slip_taken_back_is_a_wrong_answer_and_then_a_right_one():
  thought = "3 -7 makes -5 wait 3 -7 makes -4 2 makes -2"
  found = chain_sum_passes(thought, (3, -7, 2))
  assert [candidate.answer for candidate in found] == ["-3", "-2"]
  assert thought[found[0].start : found[0].end] == "3 -7 makes -5"
  assert thought[found[1].start : found[1].end] == "3 -7 makes -4 2 makes -2"


@pytest.mark.parametrize(
  "thought",
  ["", "3 -7", "3 -8 makes -5 2 makes -3", "makes makes", "3 -7 makes x", "wait wait", "7 vs"],
)
def test_what_is_no_pass_over_the_problems_terms_has_no_answer(thought):
  assert chain_sum_passes(thought, (3, -7, 2)) == []


@pytest.mark.parametrize(
  "thought, answers",
  [
    ("", []),
    ("3 -7 -4 vs 8 low", ["3 -7"]),
    ("3 -7 -4 2 vs 8 low", []),  # a term without its total
    ("3 -7 -4 比 8 低 等等 3 7 10 vs 8", ["3 -7", "3 7"]),
    ("vs 8 low", []),
    ("x3 1 4 vs", []),  # what stands before is no number, and a sum without it has no first term
    ("3 vs 8", ["3"]),
  ],
)
def test_trials_in_any_state(thought, answers):
  assert [candidate.answer for candidate in countdown_trials(thought)] == answers


def test_a_mixture_asks_the_problems_own_task():
  mini = mini_mixture()
  assert mini.candidates(countdown_problem((3, 7), 10, "en"), "3 7 10 vs 10")[0].answer == "3 7"
  assert mini.candidates(chain_sum_problem((3, 7), "en"), "3 7 makes 10")[0].answer == "10"

  class Silent:
    name = "countdown"
    sample = score = None

  assert Mixture((Silent(),), (1.0,)).candidates(countdown_problem((3,), 3, "en"), "3") is None


def test_the_thought_of_a_solution_is_where_its_span_says():
  for _, response, candidates in written("countdown", 50):
    text = f" <think>  {response.thought} </think> <answer> 1 </answer>"
    assert thought_of(text) == response.thought
    assert all(0 <= c.start < c.end <= len(response.thought) for c in candidates)
