"""A task's settings in its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.chain_sum import ChainSum
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.tasks.settings import split_settings

VALUES = st.one_of(
  st.integers(), st.booleans(), st.text(max_size=9), st.lists(st.integers(), max_size=3)
)
NAMES = st.from_regex(r"[a-z]{1,8}", fullmatch=True).map(lambda name: f"{name}_")


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_written_is_read(settings):
  told = ", ".join(f"{name}={value!r}" for name, value in settings.items())
  assert split_settings(f"task({told})") == ("task", settings)


def test_settings_are_the_tasks_own():
  assert load_task("chain_sum(min_terms=2, max_terms=3)") == ChainSum(2, 3)
  problems = [load_task("arithmetic(kinds=['halve'])").sample("train", i, 0) for i in range(20)]
  assert {problem.data.kind for problem in problems} == {"halve"}


def test_reasoning_gyms_settings_and_form():
  pytest.importorskip("reasoning_gym")
  task = load_task("reasoning_gym:chain_sum(max_terms=2, min_terms=2, template='plain')")
  assert task.name == "reasoning_gym:chain_sum(max_terms=2, min_terms=2)"
  for i in range(10):
    problem = task.sample("train", i, 0)
    assert problem.prompt.count("+") + problem.prompt.count("-") == 1
    assert not problem.prompt.startswith("A conversation")
    good = f"<think> </think> <answer> {problem.answer} </answer>"
    assert task.score(problem, good).correct == 1
  assert load_task("reasoning_gym:chain_sum").name == "reasoning_gym:chain_sum"


@pytest.mark.parametrize(
  "spec",
  [
    "chain_sum(",
    "chain_sum(2, 3)",
    "chain_sum(min_terms)",
    "chain_sum(min_terms=open('x'))",
    "chain_sum(**{'min_terms': 2})",
    "chain_sum(min_terms=2) or 1",
    "chain_sum(min_terms=2)(max_terms=3)",
    "chain_sum(terms=2)",
    "chain_sum(min_terms=0)",
    "chain_sum(min_terms='two')",
    "chain_sum(min_terms=True)",
    "chain_sum(min_terms=9, max_terms=3)",
    "countdown(min_digits=5)",
    "arithmetic(kinds=[])",
    "arithmetic(kinds='add')",
    "arithmetic(kinds=['divide'])",
    "mini(min_terms=2)",
    "guess(numbers=3.5)",
    "guess(numbers='a')",
    "guarded(private=[3])",
    "guarded(private=[33, 44])",
    "guarded(private='ab')",
    "guarded(private=None)",
    "guarded(min_terms=9, max_terms=2)",
    "(x=1)",
    "chain_sum(" + "(" * 5000,
  ],
)
def test_what_is_no_setting_is_refused_in_one_sentence(spec):
  with pytest.raises(ConfigError) as refused:
    load_task(spec)
  assert str(refused.value).count("\n") == 0 and "task" in str(refused.value)
  assert not str(refused.value).endswith("..")
