"""Judging while others are still sampled: the same scores in the same order, and sooner."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.decode.engine import SamplingParams, SlotEngine
from deepseek_jax.decode.sampling import sample_keys
from deepseek_jax.rl.completions import draw, training_problems
from deepseek_jax.tasks.isolated import Isolated
from deepseek_jax.tasks.judging import Judging, elsewhere
from deepseek_jax.tasks.mixture import Mixture
from deepseek_jax.tasks.reasoning_gym import ReasoningGym
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.tasks.task import Problem, Score
from tests.deepseek_jax.rl.bandit import MODEL, TOKENIZER, Bandit, compile_parts

WAIT = 120  # seconds after which what must happen is taken never to happen


@pytest.fixture(scope="module")
def compiled():
  """An engine of few slots, so that some end while others have not begun."""
  return {**compile_parts(), "engine": SlotEngine(MODEL, slots=8, steps=2)}


class AtTheEnd(Isolated):
  """Judged elsewhere as well, but only when all is said."""

  elsewhere = False


def drawn(compiled, task, turns=1, engine=None):
  problems = training_problems(task, 0, 6, 0)
  params = SamplingParams(max_new=8 * turns)
  given = (engine or compiled["engine"], compiled["weights"], task, TOKENIZER, problems, 8, params)
  return draw(*given, (0, 0), turns=turns, room=32)


def told_of(capsys):
  """What was told, but for what XLA compiles, which it does once."""
  lines = capsys.readouterr().err.splitlines()
  return [line for line in lines if not line.startswith("compiling ")]


@pytest.mark.parametrize(("name", "turns"), [("OddWords", 1), ("OddTalk", 3)])
def test_scores_are_those_of_judging_at_the_end_failures_included(compiled, name, turns, capsys):
  spec = f"tests.odd_scorers:{name}"
  found = drawn(compiled, load_task(f"isolated:{spec}"), turns)
  told = told_of(capsys)
  wanted = drawn(compiled, AtTheEnd(load_task(spec), spec), turns)
  assert told == told_of(capsys)
  for one, other in zip(found, wanted, strict=True):
    assert (one.score, one.exchange, one.tokens) == (other.score, other.exchange, other.tokens)
    assert (one.problem, one.truncated) == (other.problem, other.truncated)
  kinds = {one.score.failed for one in found}
  assert kinds == {"", "error", "died", *(["environment"] if turns > 1 else [])}
  assert len({one.score.correct for one in found}) > 2 and any(o.truncated for o in found)
  assert turns == 1 or {len(one.exchange) for one in found} == {1, 3, 5}


class Slow(Bandit):
  """A task that says when it judges; in a thread, as what waits for other processes may be."""

  name = "slow"
  elsewhere = True

  def __init__(self):
    self.began, self.judged = threading.Event(), []

  def score(self, problem, text):
    self.began.set()
    self.judged.append(text)
    return super().score(problem, text)


class Waiting:
  """An engine that does not go on behind the first completion until one is being judged."""

  def __init__(self, engine, began):
    self.engine, self.began, self.met, self.ended = engine, began, [], []

  def generate(self, weights, prompts, params, keys_B, *, ended=None):
    def told(number, answer, stopped):
      ended(number, answer, stopped)
      self.ended.append((number, answer, stopped))
      self.met.append(self.began.wait(WAIT))

    samples = self.engine.generate(weights, prompts, params, keys_B, ended=ended and told)
    self.samples = samples
    return samples


def test_judging_begins_before_sampling_ends(compiled):
  task = Slow()
  engine = Waiting(compiled["engine"], task.began)
  found = drawn(compiled, task, engine=engine)
  assert len(engine.met) == len(found) == 48 and all(engine.met)
  assert sorted(task.judged) == sorted(one.text for one in found), "each of them once"
  for one in found:
    assert one.score == Bandit().score(one.problem, one.text)


def test_an_engine_tells_of_each_as_it_ends(compiled):
  began = threading.Event()
  began.set()
  engine = Waiting(compiled["engine"], began)
  drawn(compiled, Slow(), engine=engine)
  numbers = [number for number, _, _ in engine.ended]
  assert sorted(numbers) == list(range(48)) and numbers != sorted(numbers)
  for number, answer, stopped in engine.ended:
    assert answer == engine.samples.answer(number)
    assert stopped == engine.samples.stopped_B[number]


def test_what_is_judged_here_is_judged_at_the_end(compiled):
  class Here(Slow):
    elsewhere = False

  class Plain:
    def generate(self, weights, prompts, params, keys_B):
      samples = compiled["engine"].generate(weights, prompts, params, keys_B)
      assert not task.judged
      return samples

  task = Here()
  assert len(drawn(compiled, task, engine=Plain())) == len(task.judged) == 48


def test_who_is_judged_elsewhere():
  odd = load_task("isolated:tests.odd_scorers:OddWords")
  assert elsewhere(odd) and elsewhere(Mixture((odd,), (1.0,)))
  assert not elsewhere(Bandit()) and not elsewhere(Mixture((odd, Bandit()), (1.0, 1.0)))
  assert ReasoningGym.elsewhere


class Failing(Slow):
  """A verifier that cannot be used at all."""

  def score_each(self, problems, texts):
    raise ConfigError("it cannot be used.")


def test_an_error_of_either_side_is_raised(compiled):
  with pytest.raises(ConfigError, match="it cannot be used"):
    drawn(compiled, Failing())

  class Broken:
    def generate(self, weights, prompts, params, keys_B, *, ended=None):
      ended(0, [5], True)
      raise RuntimeError("the device is gone")

  before = threading.active_count()
  with pytest.raises(RuntimeError, match="the device is gone"):
    drawn(compiled, Slow(), engine=Broken())
  for thread in threading.enumerate()[before:]:
    thread.join(WAIT)
  assert threading.active_count() <= before, "none goes on"


def test_judging_nothing_and_one_thing():
  task = Slow()
  with Judging(task) as judging:
    assert judging.scores() == {}
  problem = Problem(prompt="a ?", task="slow", key="0")
  with Judging(task) as judging:
    judging.add(7, problem, ("d e",))
    assert judging.scores() == {7: Score(0.5, 1.0, 1.0)}


def test_to_be_told_of_what_ends_changes_nothing_that_is_sampled(compiled):
  keys = sample_keys(0, 0, np.arange(9), np.arange(9))
  prompts = [TOKENIZER.encode("a b ?")] * 9
  params = [SamplingParams(max_new=n + 1, stop=(TOKENIZER.eos_id,)) for n in range(9)]
  plain = compiled["engine"].generate(compiled["weights"], prompts, params, keys)
  heard = compiled["engine"].generate(
    compiled["weights"], prompts, params, keys, ended=lambda *_: None
  )
  plain, heard = map(dataclasses.asdict, (plain, heard))
  assert plain.keys() == heard.keys() and len(plain["experts"]) == 9
  jax.tree.map(np.testing.assert_array_equal, plain, heard)
