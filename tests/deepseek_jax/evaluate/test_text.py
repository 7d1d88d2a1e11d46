"""Reflection words, answers, and benchmarks read from files."""

import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate.answers import extract_answer, same_answer
from deepseek_jax.evaluate.file_benchmark import load_file_benchmark
from deepseek_jax.evaluate.reflection import count_reflection
from deepseek_jax.tasks.languages import WORDS
from deepseek_jax.tasks.task import Task


@pytest.mark.parametrize(
  "text, expected",
  [
    ("3 + 4 Wait, waiting is no wait", {"wait": 2}),
    ("button but rebut BUT", {"but": 2}),
    ("12 低 等等 3 检查 3 对", {"wait": 1, "check": 1}),
    ("这是错误 错了 不对", {"error": 1, "wrong": 2}),
    ("low wait 8 vs 8 等等", {"wait": 2}),
    ("", {}),
  ],
)
def test_reflection_words_in_both_languages(text, expected):
  assert count_reflection(text) == expected


def test_the_mini_tasks_words_of_reflection_are_known():
  for meaning in ("wait", "check"):
    for words in WORDS.values():
      assert count_reflection(f"3 {words[meaning]} 4") == {meaning: 1}
  others = [w for words in WORDS.values() for m, w in words.items() if m not in ("wait", "check")]
  assert count_reflection(" ".join(others)) == {}


@pytest.mark.parametrize(
  "text, answer",
  [
    ("<think> 3 </think> <answer> 7 </answer>", "7"),
    ("<think> \\boxed{1} </think> so \\boxed{2} or \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("<think> \\boxed{1} </think> no box", None),
    ("an open \\boxed{3", None),
    ("7", None),
  ],
)
def test_the_answer_is_found(text, answer):
  assert extract_answer(text) == answer


@pytest.mark.parametrize(
  "given, wanted, same",
  [
    ("7", "7.0", True),
    ("1,000", "1000", True),
    ("1,00", "100", False),
    (" Blue  sky", "blue sky", True),
    ("$x+1$", "x+1", True),
    ("7", "8", False),
    ("nan", "nan", True),
    ("inf", "1e999", False),
  ],
)
def test_answers_compare_as_numbers_or_text(given, wanted, same):
  assert same_answer(given, wanted) is same


def test_a_benchmark_from_a_file(tmp_path):
  path = tmp_path / "sums.jsonl"
  lines = [
    {"prompt": "1 + 1 ?", "answer": 2},
    {"prompt": "求和 1 2 ?", "answer": "3", "language": "zh"},
  ]
  path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
  task = load_file_benchmark(path)
  assert isinstance(task, Task) and task.name == "sums"
  first, second = (task.sample("heldout", i, 0) for i in range(2))
  assert first.key != second.key and second.language == "zh"
  score = task.score(first, "<think> wait </think> <answer> 2 </answer>")
  assert (score.correct, score.format, score.language) == (1, 1, 1)
  assert task.score(first, "so \\boxed{3}").correct == 0
  assert task.score(second, "<think> wait </think> 3").format == 0
  assert task.score(second, "<think> wait </think> 3").language == 0
  with pytest.raises(IndexError):
    task.sample("heldout", 2, 0)


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "has no problems"),
    ('{"prompt": "a", "answer": 1}\n{"prompt": 3}', 'line 2, has no text in the field "prompt"'),
    ('{"prompt": "a"}', 'line 1, has no text or number in the field "answer"'),
    ("[1]", "line 1, is not a JSON object"),
    ("{", "line 1, is not valid JSON"),
  ],
)
def test_a_bad_file_is_refused_by_line(tmp_path, text, message):
  path = tmp_path / "bad.jsonl"
  path.write_text(text, encoding="utf-8")
  with pytest.raises(ConfigError, match=message):
    load_file_benchmark(path)


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(ConfigError, match="cannot be read"):
    load_file_benchmark(tmp_path / "none.jsonl")
