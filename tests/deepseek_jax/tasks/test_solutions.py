"""Worked solutions: their mixture of qualities, and the truth of what the good ones say."""

import collections
import dataclasses

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks import solutions
from deepseek_jax.tasks.countdown import Countdown
from deepseek_jax.tasks.languages import WORDS, language_share
from deepseek_jax.tasks.mixture import mini_mixture
from deepseek_jax.tasks.response import thought_of
from deepseek_jax.tasks.solutions import write_solution
from deepseek_jax.tasks.task import stream

MIXTURE = mini_mixture()
COUNT = 4000


@pytest.fixture(scope="module")
def written():
  problems = [MIXTURE.sample("train", i, 0) for i in range(COUNT)]
  return [(p, write_solution(p, stream(0, "solution", i))) for i, p in enumerate(problems)]


def of_task(written, name):
  return [(problem, text) for problem, text in written if problem.task == name]


def meaning(word):
  return next((m for table in WORDS.values() for m, w in table.items() if w == word), word)


def plain(text):
  """The text with its words replaced by their meanings, whatever their language."""
  return [meaning(part) for part in text.split()]


def test_a_solution_depends_on_its_random_stream_alone(written):
  for i, (problem, text) in enumerate(written[:50]):
    assert write_solution(problem, stream(0, "solution", i)) == text
  changed = [write_solution(p, stream(1, "solution", i)) for i, (p, _) in enumerate(written[:50])]
  assert changed != [text for _, text in written[:50]]


def test_solutions_fit_the_budget_of_128_tokens(written):
  assert max(len(text.split()) for _, text in written) + 1 <= 128


@pytest.mark.parametrize("name, bare", [("countdown", 0.48), ("chain_sum", 0.48)])
def test_the_shares_of_guesses_and_untagged_texts(written, name, bare):
  texts = [text for _, text in of_task(written, name)]
  untagged = sum("<think>" not in text for text in texts) / len(texts)
  guesses = sum("<think> </think>" in text for text in texts) / len(texts)
  assert untagged == pytest.approx(0.10, abs=0.03)
  assert guesses == pytest.approx(bare, abs=0.04)


def test_quality_is_uneven_and_steps_beat_guesses(written):
  right = collections.defaultdict(list)
  for problem, text in written:
    guess = "<think> </think>" in text
    right[problem.task, guess].append(MIXTURE.score(problem, text).correct)
  rate = {key: sum(values) / len(values) for key, values in right.items()}
  for name in ("countdown", "chain_sum"):
    assert 0.05 < rate[name, True] < 0.3
    assert 0.4 < rate[name, False] < 0.8


def test_what_a_trial_says_is_true(written):
  """Every running total and every comparison of a countdown, words of either language."""
  hits = 0
  for problem, text in of_task(written, "countdown"):
    digits, target = problem.data.digits, problem.data.target
    thought = text if "<think>" not in text else thought_of(text)
    if not thought:
      continue
    trials = " ".join(plain(thought)).split(" wait ")
    for trial in trials:
      steps, _, rest = trial.partition(" vs ")
      numbers = list(map(int, steps.split()))
      terms = [numbers[0], *numbers[1::2]]
      assert [abs(term) for term in terms] == list(digits)
      totals = [numbers[0], *numbers[2::2]]
      assert totals == [sum(terms[: i + 1]) for i in range(len(terms))]
      verdict = "right" if totals[-1] == target else "low" if totals[-1] < target else "high"
      assert rest.split()[:2] == [str(target), verdict]
      hits += verdict == "right"
  assert hits > 100


def test_a_text_whose_last_trial_hits_answers_with_it(written):
  hits = [
    MIXTURE.score(problem, text).correct
    for problem, text in of_task(written, "countdown")
    if "<think>" in text and plain(thought_of(text))[-1:] == ["right"]
  ]
  assert len(hits) > 300 and set(hits) == {1.0}


def test_searches_try_nothing_twice_and_always_hit(monkeypatch):
  monkeypatch.setattr(solutions, "COUNTDOWN_KINDS", {"search": 1.0})
  lengths = set()
  for i in range(200):
    problem = Countdown().sample("train", i, 0)
    text = write_solution(problem, stream(0, i))
    trials = " ".join(plain(thought_of(text))).split(" wait ")
    assert len(set(trials)) == len(trials)
    assert MIXTURE.score(problem, text).correct == 1.0
    lengths.add(len(trials))
  assert {1, 2, 3, 4} < lengths


def test_sums_are_checked_and_redone(written):
  texts = of_task(written, "chain_sum")
  checked = [(p, t) for p, t in texts if "check" in plain(t)]
  assert len(checked) / len(texts) == pytest.approx(0.11, abs=0.03)
  assert all(MIXTURE.score(p, t).correct == 1.0 for p, t in checked)
  redone = [(p, t) for p, t in texts if "wait" in plain(t) and "check" not in plain(t)]
  assert len(redone) / len(texts) == pytest.approx(0.08, abs=0.03)
  assert all(MIXTURE.score(p, t).correct == 1.0 for p, t in redone)
  for p, t in checked:  # a first pass that went wrong is taken back, a right one confirmed
    body = plain(thought_of(t))
    first = int(body[body.index("check") - 1])
    assert ("wait" in body) == (first != sum(p.data))
    assert (body[-1] == "right") == (first == sum(p.data))


def test_a_fifth_of_the_worded_solutions_changes_language_once(written):
  shares, changes = [], []
  for problem, text in written:
    words = [
      part for part in thought_of(text).split() if meaning(part) != part or part in WORDS["en"]
    ]
    if not words:
      continue
    shares.append(language_share(" ".join(words), problem.language))
    own = [word in WORDS[problem.language].values() for word in words]
    changes.append(sum(a != b for a, b in zip([True, *own], own)))
  assert set(changes) == {0, 1}
  assert sum(changes) / len(changes) == pytest.approx(0.2, abs=0.03)
  assert 0.8 < sum(shares) / len(shares) < 0.95


def test_tasks_without_worked_solutions_are_named():
  problem = MIXTURE.sample("train", 0, 0)
  with pytest.raises(ConfigError, match="riddles"):
    write_solution(dataclasses.replace(problem, task="riddles"), stream(0))
