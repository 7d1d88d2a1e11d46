"""Reflection words, answers, and benchmarks read from files."""

import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate.answers import (
  extract_answer,
  group_answers,
  lenient_answer,
  same_answer,
)
from deepseek_jax.evaluate.file_benchmark import load_file_benchmark
from deepseek_jax.evaluate.reflection.words import count_reflection
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
    ("<think> \\boxed{1} </think> so \\boxed{2}. No: \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("<think> \\boxed{1} </think> no box", None),
    ("an open \\boxed{3", None),
    ("<answer>5</answer>", "5"),
    ("<think> a </think> So <answer> 5 </answer> <|endoftext|>", "5"),
    ("a </think> <answer>5</answer>", "5"),
    ("<answer>5</answer> <answer>6</answer>", None),
    ("<answer>5</answer></answer> \\boxed{6}", None),
    ("<answer>5 \\boxed{6}", "6"),
    ("<think> <answer>5</answer> </think> 6", None),
    ("7", None),
    ("<think> 3 </think> <answer> \\boxed{5} </answer>", "5"),
    ("<think> 3 </think> <answer> $\\boxed{5}$ </answer>", "5"),
    ("\\boxed{5}. Check again: \\boxed{5", "5"),
    ("so \\boxed 5", "5"),
    ("so \\boxed {5}", "5"),
    ("so \\fbox{5}", "5"),
    ("so \\boxed{\\boxed{5}}", "5"),
    ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
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
    ("1234567891", "1234567890", False),
    ("1" * 400, "1" * 399 + "2", False),
    ("1" * 400, "1" * 400, True),
    ("\\$18", "18", True),
    ("50\\%", "50", True),
    (".5", "0.5", True),
    ("42.", "42", True),
    ("\u22123", "-3", True),
    ("(1, 2)", "(1,2)", True),
    ("(1, 0.5)", "(1,\\frac{1}{2})", True),
    ("(1, 2)", "[1, 2]", False),
    ("\\frac{1}{2}", "1/2", True),
    ("1/2", "0.5", True),
    ("\\dfrac{1}{2}", "\\frac{1}{2}", True),
    ("-\\tfrac12", "-0.5", True),
    ("1\\frac{1}{2}", "1.5", True),
    ("1/0", "1/0", True),
    ("1/0", "0", False),
    ("\\text{(B)}", "B", True),
    ("(b)", "B", True),
    ("90^\\circ", "90", True),
    ("90^{\\circ}", "90", True),
    ("x=5", "5", True),
    ("x=5", "6", False),
    ("1{,}000", "1000", True),
    ("32, 349", "32349", False),
    ("3 \\text{ cm}", "3", True),
    ("1e3", "1000", True),
    ("1e-05", "0.00001", True),
    ("5", "it is 4 + 1 #### 5", True),
    ("6.626e-34", "1.05e-34", False),
    ("1e-13", "0", False),
    ("1e-13", "1.0e-13", True),
    ("3+2\\mathrm{i}", "3+2", False),
    ("3+2\\mathrm{i}", "3+2i", True),
    ("-2\\mathrm{i}", "-2", False),
    ("4\\mathrm{e}", "4", False),
    ("2\\mathbf{i}+3\\mathbf{j}", "2\\mathbf{i}+3\\mathbf{k}", False),
    ("5\\text{ million}", "5\\text{ billion}", False),
    ("3\\text{ hundred}", "3", False),
    ("10\\text{ am}", "10\\text{ pm}", False),
    ("5\\text{ or more}", "5", False),
    ("2\\text{ (mod 5)}", "2\\text{ (mod 7)}", False),
    ("5\\text{ hours}", "5\\text{ minutes}", False),
    ("5\\text{ cm}", "5\\text{ km}", False),
    ("5\\text{ cm}", "5 cm", True),
    ("5\\mathrm{m}", "5", True),
    ("5 m", "5", False),  # m may be a variable
    ("2 pi", "2", False),
    ("15\\mbox{ cm}^2", "15", True),
    ("15\\mbox{ cm}^2", "15\\text{ cm}^3", False),
    ("5\\pi\\text{ cm}", "5\\pi", True),
    ("12\\text{ apples}", "12", True),
    ("1 hour", "1 hours", True),
    ("$10", "10%", False),
    ("$10", "10", True),
    ("\\$10", "$10$", True),
    ("x=5", "y=5", False),
    ("x=y", "y", False),
    ("y=2x+1", "2x+1", True),
    ("0.33...", "0.33", False),
    ("3~4", "34", False),
    ("1\\ 2\\ 3", "123", False),
    ("1\\,000", "1000", True),
    ("(1,000)", "(1,0)", False),
    ("x^{2}", "x^2", True),
    ("\\sqrt2", "\\sqrt{2}", True),
    ("x \\ne 0", "x\\neq 0", True),
    ("x \\le 2", "x \\leq 2", True),
    ("\\left(1, 2\\right)", "(1,2)", True),
    ("1 1/2", "1.5", True),
    ("1,000/3", "1000/3", True),
    ("\\frac{3.14}{2}", "1.57", True),
    ("\\frac{1}{-2}", "-1/2", True),
    ("\\frac12", "\\frac{1}{2}", True),
    ("\\frac{1}2", "0.5", True),
    ("\\frac123", "1/23", False),
    ("**5**", "5", True),
    ("(-1)", "-1", True),
    ("(1{,}000, 2)", "(1000,2)", True),
    ("28 percent", "28\\%", True),
    ("\u0663", "3", False),  # an Arabic-Indic three
    ("**", "5", False),
    ("5 or 6", "5", False),
    ("1e400000000", "1", False),
    ("9" * 5000, "9" * 5000, True),
    ("{" * 10**6, "5", False),
  ],
)
def test_answers_compare_as_numbers_or_text(given, wanted, same):
  assert same_answer(given, wanted) is same


LONG = 200_000  # characters; whatever is not linear in them is seen to hang
HOSTILE = (
  *(" ", "\n", "{", "}", "\\", "$", "1", ",", "1,", ",111", "-", "\\left ", "\\ "),
  *("1 ", "\\text{", "\\text{ } ", "\\boxed{", "\\boxed ", "\\frac1 ", "^{ ", "1}"),
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_long_texts_are_read_in_linear_time(unit):
  run = unit * (LONG // len(unit))
  assert extract_answer(run) is None or unit == "\\boxed "
  assert extract_answer("\\boxed{7}" + run.replace("\\boxed", "\\box")) == "7"
  for text in (f"a{run}b", f"({run})"):
    assert lenient_answer(text) != ""
    assert not same_answer(text, "never")
    assert group_answers([text, None, f" {text}\n"]) == [text, None, text]


def test_boxes_within_boxes_and_blanks_in_long_texts():
  depth = LONG // 8
  assert extract_answer("\\boxed{" * depth) is None
  assert extract_answer("\\boxed{" * depth + "7" + "}" * depth) == "7"
  assert same_answer(f"a{' ' * LONG}b", "a b")
  assert same_answer(f"a{' ' * LONG}+{' ' * LONG}b", "a+b")
  assert same_answer(f"({'1, ' * LONG}2)", f"({'1.0,' * LONG}2)")


def test_the_last_number_is_an_answer_to_the_lenient():
  assert lenient_answer("so 4 + 1 = 1,005.") == "1,005"
  assert lenient_answer("<think> 7 </think> none") is None
  assert lenient_answer("\\boxed{3} after 4") == "3"


def test_equal_answers_have_one_vote_together():
  assert group_answers(["1/2", None, "0.5", "3", "\\frac12"]) == ["1/2", None, "1/2", "3", "1/2"]


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
    ('{"prompt": "a", "answer": NaN}', 'line 1, has nan in the field "answer"'),
    ('{"prompt": "a", "answer": Infinity}', 'line 1, has inf in the field "answer"'),
    ('{"prompt": "a", "answer": " "}', "line 1, has ' ' in the field"),
    ("{", "line 1, is not valid JSON"),
  ],
)
def test_a_bad_file_is_refused_by_line(tmp_path, text, message):
  path = tmp_path / "bad.jsonl"
  path.write_text(text, encoding="utf-8")
  with pytest.raises(ConfigError, match=message):
    load_file_benchmark(path)


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(ConfigError, match="none.jsonl does not exist"):
    load_file_benchmark(tmp_path / "none.jsonl")
  with pytest.raises(ConfigError, match="x.jsonl is a URL, which is not read"):
    load_file_benchmark("https://example.org/x.jsonl")
  with pytest.raises(ConfigError, match="is not a dataset directory"):
    load_file_benchmark(tmp_path)
