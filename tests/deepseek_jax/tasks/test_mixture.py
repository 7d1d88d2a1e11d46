"""Mixtures by their names, tasks that end in them, and questions for a reward model."""

import collections
import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.rl.learned_reward import require_tasks
from deepseek_jax.rl.reward_parts import LearnedConfig
from deepseek_jax.tasks.mixture import Mixture, split_mixture
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.tasks.task import Problem, Score


class Finite:
  """Three problems."""

  name = "finite"

  def sample(self, split, index, seed, language=None):
    """Problem `index` of three."""
    return [Problem(f"q{i}", self.name, f"q{i}") for i in range(3)][index]

  def score(self, problem, text):
    """Right if the text is the question."""
    return Score(float(text == problem.prompt), 1.0, 1.0)


def test_a_mixture_is_drawn_in_proportion_and_judged_by_its_tasks():
  task = load_task("3 * countdown + chain_sum")
  problems = [task.sample("train", i, 0) for i in range(800)]
  drawn = collections.Counter(problem.task for problem in problems)
  assert drawn["countdown"] / 800 == pytest.approx(0.75, abs=0.05)
  assert {task.score(p, "nothing").correct for p in problems[:20]} == {0.0}
  assert task.name == "3 * countdown + chain_sum"


def test_a_mixture_in_a_mixture_is_its_tasks():
  task = load_task("mini + tests.positive_task:Positive")
  assert [one.name for one in task.tasks] == ["countdown", "chain_sum", "positive"]
  assert task.weights == pytest.approx((0.6, 0.4, 1.0))
  problem = next(p for i in range(99) if (p := task.sample("train", i, 0)).task == "positive")
  assert task.score(problem, "7").correct == 1


def test_a_task_that_ends_comes_again_in_a_mixture():
  task = Mixture((load_task("countdown"), Finite()), (1.0, 1.0))
  drawn = [p.prompt for i in range(200) if (p := task.sample("train", i, 0)).task == "finite"]
  assert len(drawn) > 60 and set(drawn) == {"q0", "q1", "q2"}


@pytest.mark.parametrize(
  ("spec", "told"),
  [
    ("0 * countdown + chain_sum", "'0' is no positive number"),
    ("a * countdown + chain_sum", "'a' is no positive number"),
    ("countdown + nothing", "task 'nothing' is unknown"),
    ("countdown + countdown", "names a task twice"),
  ],
)
def test_what_is_no_mixture_is_told(spec, told):
  with pytest.raises(ConfigError, match=told):
    load_task(spec)


def test_one_task_is_no_mixture():
  assert split_mixture("countdown") == [(1.0, "countdown")]


def test_questions_of_a_file_have_form_and_language_and_are_never_right(tmp_path):
  path = tmp_path / "q.jsonl"
  path.write_text("".join(json.dumps({"prompt": f"What is {i}?"}) + "\n" for i in range(50)))
  task = load_task(f"prompts:{path}")
  train = {task.sample("train", i, 0).prompt for i in range(50)}
  held = {task.sample("heldout", i, 0).prompt for i in range(50)}
  assert len(train | held) == 50 and not train & held
  again = [task.sample("train", i, 0) for i in range(len(train))]
  assert len({p.prompt for p in again}) == len(train)
  problem = again[0]
  formed = task.score(problem, "<think> the sum </think> <answer> 3 </answer>")
  assert (formed.correct, formed.format) == (0.0, 1.0)
  assert task.score(problem, "3") == Score(0.0, 0.0, task.score(problem, "3").language)


@pytest.mark.parametrize(
  ("text", "told"),
  [
    ("", "has no questions"),
    ("{", "line 1, is not valid JSON"),
    ('{"question": "a"}', "line 1, has no text in a field 'prompt'"),
    ('{"prompt": "a", "language": 3}', "line 1, has a language"),
  ],
)
def test_files_without_questions_are_refused(tmp_path, text, told):
  (tmp_path / "q.jsonl").write_text(text)
  with pytest.raises(ConfigError, match=told):
    load_task(f"prompts:{tmp_path / 'q.jsonl'}")
  with pytest.raises(ConfigError, match="cannot be read"):
    load_task("prompts:nowhere.jsonl")


def test_questions_that_nothing_judges_are_refused(tmp_path):
  file = tmp_path / "asked.jsonl"
  file.write_text('{"prompt": "Hello?"}\n{"prompt": "Who?"}\n{"prompt": "Why?"}\n')
  for spec in (f"prompts:{file}", f"countdown + prompts:{file}"):
    with pytest.raises(ConfigError, match="nothing judges the answers to prompts:"):
      require_tasks(LearnedConfig(), load_task(spec))
  require_tasks(LearnedConfig(), load_task("countdown"))
