"""What a name means: a task, a file of problems to measure by, the same file to train on."""

import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate.benchmark import open_benchmark, open_task
from deepseek_jax.evaluate.file_benchmark import FileBenchmark
from deepseek_jax.rl.completions import training_problems
from deepseek_jax.rl.grpo_job import _fingerprint


def write(path, count, **more):
  rows = [{"prompt": f"What is {i} + {i}?", "answer": 2 * i, **more} for i in range(count)]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return path


def test_a_file_is_divided_for_training_and_whole_as_a_benchmark(tmp_path):
  path = write(tmp_path / "sums.jsonl", 60)
  task, whole = open_task(str(path)), open_benchmark(str(path), "exact")
  assert isinstance(task, FileBenchmark) and isinstance(whole, FileBenchmark)
  held = []
  with pytest.raises(IndexError):
    for i in range(61):
      held.append(task.sample("heldout", i, 0).key)
  trained = [p.key for p in training_problems(task, 0, 60 - len(held), 0)]
  assert 4 < len(held) < 24 and not {*held} & {*trained}
  assert {*held, *trained} == {p.key for p in whole.problems} and len({*trained}) == len(trained)
  again = [p.key for p in training_problems(task, len(trained), len(trained), 0)]
  assert {*again} == {*trained} and again != trained
  assert [whole.sample("heldout", i, 0).key for i in range(60)] == [p.key for p in whole.problems]


def test_what_is_said_is_judged_with_the_rest(tmp_path):
  task = open_task(str(write(tmp_path / "sums.jsonl", 30)))
  problem = task.sample("train", 0, 0)
  texts = [f"\\boxed{{{problem.answer}}}", f"It is {problem.answer}.", "no"]
  scores = task.score_each([problem] * 3, texts)
  assert [(s.correct, s.said) for s in scores] == [(1, 1), (0, 1), (0, 0)]


def test_a_change_of_the_file_is_a_change_of_what_is_learnt_from(tmp_path):
  before = _fingerprint(open_task(str(write(tmp_path / "sums.jsonl", 30))))
  assert before == _fingerprint(open_task(str(write(tmp_path / "sums.jsonl", 30, source="me"))))
  assert before != _fingerprint(open_task(str(write(tmp_path / "sums.jsonl", 31))))


def test_a_split_is_named_behind_a_mark(tmp_path):
  data = tmp_path / "data"
  data.mkdir()
  write(data / "train.jsonl", 20)
  write(data / "test.jsonl", 7)
  assert len(open_task(str(data)).problems) == 20
  assert len(open_task(f"{data}#test").problems) == 7
  with pytest.raises(ConfigError, match="which has no splits; leave #test out"):
    open_task(f"{data}/train.jsonl#test")
  with pytest.raises(ConfigError, match="none"):
    open_task(f"{data}#none")


def chosen(tmp_path, path, indices):
  """A file of problems that were chosen of those in `path`."""
  task, rows = open_task(str(path)), []
  for i in indices:
    p = task.sample("train", i, 0)
    told = {"key": p.key, "prompt": p.prompt, "answer": p.answer}
    rows.append({"task": str(path), "seed": 0, "index": i, **told})
  kept = tmp_path / "kept.jsonl"
  kept.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return kept


def test_what_was_chosen_of_a_file_is_found_again_until_the_file_changes(tmp_path):
  path = write(tmp_path / "sums.jsonl", 30)
  kept = chosen(tmp_path, path, [1, 4])
  task = open_task(f"chosen:{kept}")
  assert {p.prompt for p in task.problems} == {
    open_task(str(path)).sample("train", i, 0).prompt for i in (1, 4)
  }
  path.write_text(path.read_text().replace('"answer": ', '"answer": 1'))
  with pytest.raises(ConfigError, match="another problem now"):
    open_task(f"chosen:{kept}")


def test_files_and_what_was_chosen_are_parts_of_mixtures(tmp_path):
  path = write(tmp_path / "sums.jsonl", 30)
  kept = chosen(tmp_path, path, [0, 1, 2])
  for part in (str(path), f"chosen:{kept}"):
    mixture = open_task(f"0.5 * {part} + 0.5*countdown")
    problems = [mixture.sample("train", i, 0) for i in range(30)]
    assert len({p.task for p in problems}) == 2
    said = [f"<answer>{p.answer}</answer>" for p in problems]
    right = [s.correct for s in mixture.score_each(problems, said)]
    assert right == [float(p.task == "sums") for p in problems]


def test_a_directory_does_not_take_a_tasks_name(tmp_path, monkeypatch):
  (tmp_path / "mini").mkdir()
  monkeypatch.chdir(tmp_path)
  assert open_task("mini").name == open_benchmark("mini").name == "mini"
