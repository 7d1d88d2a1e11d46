"""Problems by counter, their split, the mixture, and finding tasks by name."""

import collections
import subprocess
import sys

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks import languages, registry
from deepseek_jax.tasks.chain_sum import ChainSum
from deepseek_jax.tasks.countdown import Countdown, countdown_problem
from deepseek_jax.tasks.holdout import split_of
from deepseek_jax.tasks.languages import language_share
from deepseek_jax.tasks.mixture import Mixture, mini_mixture
from deepseek_jax.tasks.task import Problem, Score, Task, stream
from deepseek_jax.tasks.templates import apply_template

TASKS = (Countdown(), ChainSum(), mini_mixture())


def operands(problem):
  data = problem.data
  return data.digits if problem.task == "countdown" else tuple(map(abs, data))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_problem_depends_on_split_index_and_seed_alone(task):
  first = [task.sample("train", i, 3) for i in range(40)]
  assert first == [task.sample("train", i, 3) for i in range(40)]
  assert first != [task.sample("train", i, 4) for i in range(40)]
  assert isinstance(task, Task)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_share_no_operands_under_any_seed(task):
  train = {operands(task.sample("train", i, seed)) for i in range(300) for seed in (0, 1)}
  held_out = {operands(task.sample("heldout", i, seed)) for i in range(300) for seed in (0, 7)}
  assert len(train) > 100 and len(held_out) > 50
  assert not train & held_out


def test_about_a_fifth_of_all_digit_strings_is_held_out():
  digits = [(a, b, c) for a in range(1, 10) for b in range(1, 10) for c in range(1, 10)]
  share = sum(split_of(d) == "heldout" for d in digits) / len(digits)
  assert 0.15 < share < 0.25


def test_the_split_is_the_same_in_another_process():
  code = "from deepseek_jax.tasks.mixture import mini_mixture as m;"
  code += "print([m().sample('heldout', i, 5).key for i in range(5)])"
  other = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout
  assert other.strip() == str([mini_mixture().sample("heldout", i, 5).key for i in range(5)])


def test_tasks_do_not_import_jax():
  code = "import sys, deepseek_jax.tasks.registry as r; r.load_task('mini');"
  code += "print('jax' in sys.modules)"
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "False"


def test_the_language_is_free_of_the_problem():
  for i in range(20):
    english, chinese = (Countdown().sample("train", i, 0, language) for language in ("en", "zh"))
    assert english.key == chinese.key and english.data == chinese.data
    assert english.prompt.startswith("make") and chinese.prompt.startswith("凑")
  drawn = collections.Counter(mini_mixture().sample("train", i, 0).language for i in range(400))
  assert 150 < drawn["en"] < 250


def test_the_mixture_keeps_its_proportions_and_scores_by_the_own_task():
  mixture = mini_mixture()
  problems = [mixture.sample("train", i, 0) for i in range(600)]
  share = sum(problem.task == "countdown" for problem in problems) / len(problems)
  assert 0.54 < share < 0.66
  chain = next(problem for problem in problems if problem.task == "chain_sum")
  assert mixture.score(chain, f"<think> </think> <answer> {chain.answer} </answer>").correct == 1.0


def test_every_countdown_can_be_solved_and_prompts_are_short():
  for i in range(200):
    problem = mini_mixture().sample("train", i, 1)
    assert len(problem.prompt.split()) <= 12 and problem.prompt.endswith(" ?")
    if problem.task == "countdown":
      digits, target = problem.data.digits, problem.data.target
      sums = {digits[0]}
      for digit in digits[1:]:
        sums = {total + sign * digit for total in sums for sign in (1, -1)}
      assert target in sums


def test_language_share_counts_words_and_nothing_else():
  assert language_share("3 7 10 vs 8 high wait", "en") == 1.0
  assert language_share("3 7 10 vs 8 high 等等", "en") == pytest.approx(2 / 3)
  assert language_share("3 7 10 vs 8 high 等等", "zh") == pytest.approx(1 / 3)
  assert language_share("<think> 3 -7 </think> = ?", "zh") == 1.0
  assert language_share("等等 没关系", "zh") == 1.0
  assert language_share("wait", "fr") == 1.0


def test_each_language_has_each_word_and_they_differ():
  english, chinese = languages.WORDS["en"], languages.WORDS["zh"]
  assert english.keys() == chinese.keys()
  assert not set(english.values()) & set(chinese.values())
  for name, words in languages.WORDS.items():
    assert len(set(words.values())) == len(words)
    assert all(language_share(word, name) == 1.0 for word in words.values())


class Parity:
  """A user's task."""

  name = "parity"

  def sample(self, split, index, seed, language=None):
    n = stream(seed, self.name, split, index).randrange(1000)
    return Problem(prompt=f"{n} ?", task=self.name, key=str(n), data=n)

  def score(self, problem, text):
    return Score(correct=float(text == str(problem.data % 2)), format=1.0, language=1.0)


PARITY = Parity()


def broken():
  raise TypeError("needs an argument")


@pytest.mark.parametrize("name", ["Parity", "PARITY"])
def test_a_users_task_is_loaded_by_its_place(name, monkeypatch):
  monkeypatch.setitem(sys.modules, "my_tasks", sys.modules[__name__])
  task = registry.load_task(f"my_tasks:{name}")
  assert task.score(task.sample("train", 0, 0), "0").format == 1.0


@pytest.mark.parametrize(
  "spec, named",
  [
    ("nothing", "nothing"),
    ("my_tasks:", "my_tasks:"),
    ("no_such_module:task", "no_such_module"),
    ("my_tasks:absent", "absent"),
    ("my_tasks:broken", "broken"),
    ("my_tasks:TASKS", "sample"),
    ("reasoning_gym:no_such_dataset", "no_such_dataset"),
  ],
)
def test_what_is_no_task_is_named(spec, named, monkeypatch):
  monkeypatch.setitem(sys.modules, "my_tasks", sys.modules[__name__])
  with pytest.raises(ConfigError, match=named):
    registry.load_task(spec)


def test_a_mixture_names_what_is_wrong():
  with pytest.raises(ConfigError, match="weights"):
    Mixture((Countdown(),), (0.5, 0.5))
  with pytest.raises(ConfigError, match="twice"):
    Mixture((Countdown(), Countdown()), (0.5, 0.5))
  with pytest.raises(ValueError, match="not of this mixture"):
    mini_mixture().score(Problem("?", "other", "k"), "")


def test_any_dataset_of_reasoning_gym_is_a_task():
  pytest.importorskip("reasoning_gym")
  task = registry.load_task("reasoning_gym:leg_counting")
  train = [task.sample("train", i, 0) for i in range(5)]
  assert train == [task.sample("train", i, 0) for i in range(5)]
  assert not {p.key for p in train} & {task.sample("heldout", i, 0).key for i in range(5)}
  problem = train[0]
  assert problem.prompt.endswith("Assistant:")
  good = f"<think> so </think> <answer> {problem.answer} </answer>"
  assert task.score(problem, good).correct == 1.0
  assert task.score(problem, problem.answer).correct == 0.0


def test_without_reasoning_gym_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "reasoning_gym", None)
  from deepseek_jax.tasks import reasoning_gym

  reasoning_gym._generator.cache_clear()
  with pytest.raises(ConfigError, match="pip install"):
    registry.load_task("reasoning_gym:countdown")


def test_templates_hold_the_question_and_braces_do_no_harm():
  assert apply_template("plain", "{x} ?") == "{x} ?"
  assert "User: {x} ?. Assistant:" in apply_template("r1_zero", "{x} ?")
  with pytest.raises(ConfigError, match="nope"):
    apply_template("nope", "")


def test_keys_name_the_problem_whatever_its_language():
  assert countdown_problem((3, 7, 2), 8, "en").key == countdown_problem((3, 7, 2), 8, "zh").key
  assert countdown_problem((3, 7, 2), 8, "en").key != countdown_problem((3, 7, 2), -6, "en").key


def test_a_task_whose_making_fails_is_told(tmp_path, monkeypatch):
  (tmp_path / "stranger.py").write_text(
    "class T:\n  def __init__(self):\n    raise OSError('no')\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(
    ConfigError, match=r"calling 'T' without arguments failed \(OSError\('no'\)\)"
  ):
    registry.load_task("stranger:T")
