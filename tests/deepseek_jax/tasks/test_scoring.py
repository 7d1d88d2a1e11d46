"""Judging many at once: no verifier ends a run, and what fails is counted."""

import dataclasses
import os

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks import registry
from deepseek_jax.tasks.chain_sum import ChainSum
from deepseek_jax.tasks.countdown import Countdown
from deepseek_jax.tasks.mixture import Mixture
from deepseek_jax.tasks.reasoning_gym import ReasoningGym, _generator
from deepseek_jax.tasks.scoring import failures, score_each, tell_failures
from deepseek_jax.tasks.task import Problem, Score
from tests.odd_scorers import Odd


def problem(*data):
  return Problem(prompt="?", task="odd", key=str(data), data=data)


def wrapped(answer):
  return f"<think> so </think> <answer> {answer} </answer>"


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), None, 2.0, -1, "good", [1, 2]])
@pytest.mark.parametrize("task", [Odd(), registry.load_task("isolated:tests.odd_scorers:Odd")])
def test_a_figure_outside_the_unit_interval_is_counted(task, figure, capsys):
  problems = [problem("score", figure), problem("score", 0.5)]
  scores = score_each(task, problems, ["a", "b"])
  assert (scores[0].correct, scores[0].failed) == (0.0, "range")
  assert scores[1] == Score(0.5, 1.0, 1.0)
  tell_failures(task.name, scores)
  told = capsys.readouterr().err
  assert "odd could not judge 1 of 2" in told and "'correct'" in told


def test_a_verifier_that_raises_is_counted_and_the_others_are_judged():
  problems = [problem("raise", None), problem("score", 1.0), problem("exit", 1)]
  scores = score_each(Odd(), problems, ["", "", ""])
  assert [score.correct for score in scores] == [0.0, 1.0, 0.0]
  assert failures(scores) == {"error": 2}
  assert "ValueError: two lines" in scores[0].failure


def test_a_judgement_that_is_none_is_counted():
  assert score_each(Odd(), [problem("echo", None)], [""])[0].failed == "range"


def test_an_isolated_task_is_judged_elsewhere():
  task = registry.load_task("isolated:tests.odd_scorers:Odd")
  assert task.name == "odd" and task.sample("train", 3, 0).key == "3"
  here = problem("pid", os.getpid())
  assert score_each(task, [here], [""])[0].correct == 0.0
  assert score_each(Odd(), [here], [""])[0].correct == 1.0
  scores = score_each(task, [problem("leave", 1), problem("score", 1.0)], ["", ""])
  assert [score.failed for score in scores] == ["died", ""]
  assert task.score(problem("score", 0.25), "").correct == 0.25


@pytest.mark.parametrize("spec", ["tests.odd_scorers:Odd", "isolated:tests.odd_scorers:Odd"])
def test_a_tasks_own_kind_of_score_will_do(spec):
  scores = score_each(registry.load_task(spec), [problem("numpy", 0.5)], [""])
  assert scores == [Score(0.5, 1.0, 1.0)] and failures(scores) == {}


def test_what_judges_many_at_once_may_fail_at_one():
  class Together(Odd):
    """Judges together, and says nothing of whom it failed at."""

    def score_each(self, problems, texts):
      return [self.score(p, t) for p, t in zip(problems, texts, strict=True)]

  scores = score_each(Together(), [problem("raise", None), problem("score", 1.0)], ["", ""])
  assert [score.failed for score in scores] == ["error", ""] and scores[1].correct == 1.0


def test_what_has_processes_of_its_own_is_not_isolated_twice():
  pytest.importorskip("reasoning_gym")
  assert registry.load_task("isolated:reasoning_gym:chain_sum") == ReasoningGym("chain_sum")
  twice = registry.load_task("isolated:isolated:tests.odd_scorers:Odd")
  assert twice.score(problem("score", 0.5), "").correct == 0.5


def test_an_unknown_task_cannot_be_isolated():
  with pytest.raises(ConfigError, match="no_such_module"):
    registry.load_task("isolated:tests.no_such_module:Odd")


def test_a_mixture_judges_each_by_its_own_task_in_order():
  mixture = Mixture((Countdown(), ChainSum(2, 3)), (0.5, 0.5))
  problems = [mixture.sample("train", index, 0) for index in range(40)]
  texts = [wrapped(p.answer or "0") for p in problems]
  scores = score_each(mixture, problems, texts)
  assert scores == [mixture.score(p, t) for p, t in zip(problems, texts, strict=True)]
  assert {s.correct for s in scores} == {0.0, 1.0}


def gym(dataset):
  pytest.importorskip("reasoning_gym")
  task = ReasoningGym(dataset)
  return task, task.sample("train", 0, 0)


EVALUATING = ["countdown", "puzzle24", "string_insertion", "spiral_matrix", "binary_matrix",
              "n_queens", "polynomial_multiplication", "simple_integration",
              "intermediate_integration"]  # fmt: skip


@pytest.mark.parametrize("dataset", EVALUATING)
def test_what_a_model_wrote_is_data(dataset, tmp_path):
  task, asked = gym(dataset)
  marker = tmp_path / "marker"
  hostile = wrapped(f"__import__('pathlib').Path('{marker}').touch()")
  score = task.score(asked, hostile)
  assert score.correct == 0.0 and score.format == 1.0
  assert not marker.exists()


def test_a_scorer_that_does_not_return_is_ended():
  task, asked = gym("countdown")
  scores = score_each(task, [asked] * 3, [wrapped("9**9**9**9"), wrapped("abc"), "no form"])
  assert [score.correct for score in scores] == [0.0, pytest.approx(0.01, abs=0.05), 0.0]
  assert [score.failed for score in scores] == ["time", "", ""]
  assert [score.format for score in scores] == [1.0, 1.0, 0.0]


def test_a_scorer_that_raises_is_counted():
  task, asked = gym("prime_factorization")
  scores = score_each(task, [asked, asked], [wrapped("abc"), wrapped(asked.answer)])
  assert [score.failed for score in scores] == ["error", ""]
  assert scores[1].correct == 1.0


@pytest.mark.parametrize("dataset", [*EVALUATING, "leg_counting", "chain_sum", "word_ladder"])
def test_right_answers_score_as_they_do_in_reasoning_gym(dataset):
  task, _ = gym(dataset)
  problems = [task.sample("train", index, 0) for index in range(4)]
  answers = [p.answer for p in problems if p.answer is not None]
  known = [p for p in problems if p.answer is not None]
  scorer = _generator(dataset, (), 0)
  wanted = [scorer.score_answer(p.answer, p.data) for p in known]
  scores = score_each(task, known, [wrapped(answer) for answer in answers])
  assert [score.failure for score in scores] == [""] * len(known)
  assert [score.correct for score in scores] == wanted


ODD = ["", "   ", "abc", "0", "-1", "nan", "inf", "1e999", "None", "[]", "{}", "[[1, 2], [3]]",
       "9**9**9**9", "[0]*10**12", "().__class__.__base__.__subclasses__()", "exit()", "\ufffd",
       "x" * 100_000, "(" * 3000, "1/0", "lambda: 0", "\u0663 + \uff14"]  # fmt: skip


@pytest.mark.slow
def test_every_dataset_of_reasoning_gym_survives_odd_answers(tmp_path):
  factory = pytest.importorskip("reasoning_gym.factory")
  marker = tmp_path / "marker"
  odd = [*ODD, f"__import__('pathlib').Path('{marker}').touch()", f"open('{marker}', 'w')"]
  names = sorted(set(factory.DATASETS) - {"composite"})  # which wants to be told of what
  assert len(names) > 100
  for name in names:
    task, asked = gym(name)
    scores = score_each(task, [asked] * len(odd), [wrapped(answer) for answer in odd])
    assert all(0 <= score.correct <= 1 for score in scores), name
    assert {score.failed for score in scores} <= {"", "error", "time", "memory", "refused"}, name
    scorer = _generator(name, (), 0)
    if asked.answer is not None and not dataclasses.asdict(task)["settings"]:
      right = score_each(task, [asked], [wrapped(asked.answer)])[0]
      assert right.failure == "", (name, right)
      assert right.correct == pytest.approx(scorer.score_answer(asked.answer.strip(), asked.data))
  assert not marker.exists()
