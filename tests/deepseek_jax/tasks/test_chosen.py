"""Problems that a preflight chose: the same ones again, in orders of their own."""

import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.registry import load_task

TASK = load_task("chain_sum")


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "chosen.jsonl"
  write(path, [1, 4, 9])
  return path


def write(path, indices, **changes):
  rows = [
    {"task": "chain_sum", "seed": 5, "index": i, "key": TASK.sample("train", i, 5).key} | changes
    for i in indices
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_turn_has_each_chosen_problem_once(file):
  chosen = load_task(f"chosen:{file}")
  wanted = {TASK.sample("train", i, 5).key for i in (1, 4, 9)}
  orders = []
  for turn in range(100):
    keys = [chosen.sample("train", 3 * turn + i, 0).key for i in range(3)]
    assert set(keys) == wanted
    orders.append(tuple(keys))
  assert len(set(orders)) == 6
  assert chosen.file == file


def test_what_is_held_out_is_the_tasks_own_or_with_all_the_chosen(file):
  chosen, everything = load_task(f"chosen:{file}"), load_task(f"chosen:{file}@all")
  assert [chosen.sample("heldout", i, 2) for i in range(5)] == [
    TASK.sample("heldout", i, 2) for i in range(5)
  ]
  keys = {everything.sample("heldout", i, 2).key for i in range(3)}
  assert keys == {chosen.sample("train", i, 0).key for i in range(3)}


def test_the_task_judges(file):
  chosen = load_task(f"chosen:{file}")
  problem = chosen.sample("train", 0, 0)
  good = f"<think> </think> <answer> {problem.answer} </answer>"
  assert [s.correct for s in chosen.score_each([problem] * 2, [good, "7"])] == [1.0, 0.0]


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "names no problem"),
    ("{", "line 1 is no JSON"),
    ("[1]", 'no str in the field "task"'),
    ('{"task": "chain_sum", "seed": true, "index": 1, "key": "x"}', 'no int in the field "seed"'),
    ('{"task": "chain_sum", "seed": 5, "index": 1, "key": "x"}', "another problem now"),
  ],
)
def test_a_bad_file_is_refused(tmp_path, text, message):
  path = tmp_path / "bad.jsonl"
  path.write_text(text)
  with pytest.raises(ConfigError, match=message):
    load_task(f"chosen:{path}")


def test_a_missing_file_and_several_tasks_are_refused(tmp_path, file):
  with pytest.raises(ConfigError, match="there is no file"):
    load_task(f"chosen:{tmp_path}/none.jsonl")
  other = file.read_text() + file.read_text().replace('"chain_sum"', '"countdown"', 1)
  file.write_text(other)
  with pytest.raises(ConfigError, match="several tasks: chain_sum, countdown"):
    load_task(f"chosen:{file}")


def test_a_choice_of_itself_is_refused(file):
  write(file, [1], task=f"chosen:{file}")
  with pytest.raises(ConfigError, match="names problems of itself"):
    load_task(f"chosen:{file}")
