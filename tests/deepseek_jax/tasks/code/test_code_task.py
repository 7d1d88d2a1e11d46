"""The task of programming problems: published forms, splits, and the programs in completions."""

import base64
import itertools
import json
import os
import pickle
import threading
import zlib
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks import scoring
from deepseek_jax.tasks.code import task as tasks
from deepseek_jax.tasks.code.cases import Assertions, Outputs, Values, called_functions, same_output
from deepseek_jax.tasks.code.inside.calls import Opaque, decode, encode
from deepseek_jax.tasks.code.judge import Outcome, Verdict, judge
from deepseek_jax.tasks.code.sandbox import sandbox
from deepseek_jax.tasks.gold import check_gold
from deepseek_jax.tasks.isolated import Isolated
from deepseek_jax.tasks.registry import load_task

HUMAN_EVAL = {
  "task_id": "Test/0",
  "prompt": (
    "import math\n\n\ndef double(n: int) -> int:\n  return 2 * n\n\n\n"
    'def halve(numbers: list) -> list:\n    """ Half of each. """\n'
  ),
  "entry_point": "halve",
  "canonical_solution": "    return [math.floor(n / 2) for n in numbers]\n",
  "test": (
    "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([2, 5]) == [1, 2]\n"
    "    assert candidate([]) == []\n    assert candidate([double(3)]) == halve([6])\n"
  ),
}
MBPP = {
  "task_id": 7,
  "text": "Write a function to find the words of four letters.",
  "code": "import re\ndef four(text):\n  return tuple(re.findall(r'\\b\\w{4}\\b', text))",
  "test_list": [
    "assert four('some words here') == ('some', 'here')",
    "assert set(four('none at all')) == set(('none',))",
    "assert math.isclose(len(four('')), 0)",
  ],
}
STDIN = {
  "question_content": "Add two numbers.",
  "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
  "private_test_cases": base64.b64encode(
    zlib.compress(pickle.dumps(json.dumps([{"input": "4 5", "output": "9", "testtype": "stdin"}])))
  ).decode(),
  "starter_code": "",
  "metadata": "{}",
}
FUNCTIONAL = {
  "question_content": "Rotate the list.",
  "public_test_cases": json.dumps(
    [{"input": "[1, 2, 3]\n1", "output": "[3, 1, 2]", "testtype": "functional"}]
  ),
  "private_test_cases": json.dumps(
    [{"input": '["a", null]\n1', "output": '[null, "a"]', "testtype": "functional"}]
  ),
  "starter_code": "class Solution:\n  def rotate(self, x: List[int], k: int) -> List[int]:\n    ",
  "metadata": json.dumps({"func_name": "rotate"}),
}
OURS = {"prompt": "Print the input backwards.", "tests": [{"input": "ab\n", "output": "ba"}]}
# Record, a solution, and one that passes some cases only.
SOLVED = {
  "HumanEval": (HUMAN_EVAL, HUMAN_EVAL["canonical_solution"], "    return [1, 2]\n"),
  "HumanEval, whole": (
    HUMAN_EVAL,
    "def halve(numbers):\n  return [n // 2 for n in numbers]",
    "def halve(numbers):\n  return [n / 2 for n in numbers]",
  ),
  "MBPP": (MBPP, MBPP["code"], "def four(text): return ('some', 'here')"),
  "LiveCodeBench, stdin": (STDIN, "print(sum(map(int, input().split())))", "print(3)"),
  "LiveCodeBench, functional": (
    FUNCTIONAL,
    FUNCTIONAL["starter_code"] + "return x[-k:] + x[:-k]",
    FUNCTIONAL["starter_code"] + "return [3, 1, 2]",
  ),
  "ours": (OURS, "print(input()[::-1])", "print('ba', 'ba')"),
}


@pytest.fixture
def confined():
  try:
    return sandbox()
  except ConfigError as error:
    pytest.skip(str(error))


@pytest.fixture
def known(monkeypatch):
  """Reads files without looking for a sandbox."""
  monkeypatch.setattr(tasks, "sandbox", lambda: None)


def write(tmp_path, *records):
  path = tmp_path / "problems.jsonl"
  path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
  return path


def reply(program, thought="so"):
  return f"<think> {thought} </think> <answer> It is\n```python\n{program}\n```\n</answer>"


@pytest.mark.parametrize("form", SOLVED)
def test_a_solution_is_accepted_and_half_of_one_is_not(form, tmp_path, confined):
  record, right, half = SOLVED[form]
  task = load_task(f"code:{write(tmp_path, record)}@all")
  problem = task.sample("heldout", 0, seed=0)
  texts = [reply(right), reply(half), "<think> endless", f"```python\n{right}\n```", "no program"]
  scores = scoring.score_each(task, [problem] * len(texts), texts)
  assert [score.correct for score in scores] == [1, 0, 0, 1, 0]
  assert [score.format for score in scores] == [1, 1, 0, 1, 0]
  assert not any(score.failure for score in scores)
  assert task.score(problem, reply(right)) == scores[0]


def test_prompts_show_what_is_asked_and_not_what_is_expected(tmp_path, known):
  for record in (HUMAN_EVAL, MBPP, STDIN, FUNCTIONAL, OURS):
    problem = load_task(f"code:{write(tmp_path, record)}@all").sample("train", 0, 0)
    for hidden in ("candidate", "isclose", "output", "[3, 1, 2]", "canonical"):
      assert hidden not in problem.prompt.replace("standard output", "")
    assert "```python" in problem.prompt
    assert problem.answer is None or problem.answer not in problem.prompt


def test_the_forms_are_read(tmp_path, known):
  path = write(tmp_path, HUMAN_EVAL, MBPP, STDIN, FUNCTIONAL, OURS)
  data = [problem.data for problem in load_task(f"code:{path}").problems]
  assert [type(cases) for cases in data] == [Assertions, Assertions, Outputs, Values, Outputs]
  assert data[1].functions == ("four",) and "import math" in data[1].setup
  assert data[2].cases == (("1 2\n", "3\n"), ("4 5", "9")), "the pickled ones too"
  assert json.loads(data[3].cases[1][0]) == [["a", None], 1]


def test_solutions_of_a_file_are_what_its_verifier_is_checked_by(tmp_path, confined):
  other = {**MBPP, "text": "Another.", "code": MBPP["code"].replace("4", "5")}
  without = {**HUMAN_EVAL, "prompt": HUMAN_EVAL["prompt"] + "    # so\n", "canonical_solution": ""}
  task = load_task(f"code:{write(tmp_path, HUMAN_EVAL, MBPP, other, without, STDIN, OURS)}@all")
  found = check_gold(task, task.problems)
  assert (found.problems, found.answered, found.accepted) == (6, 3, 2)
  assert (found.form, found.controls, found.mistaken) == ("```python ANSWER ```", 3, 0)
  (refused,) = found.refused
  assert "Another" in refused, "its solution fails its tests"


class Bomb:
  def __reduce__(self):
    return os.mkdir, ("/never",)


def packed(value):
  return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


@pytest.mark.parametrize(
  ("record", "told"),
  [
    ("{", "Expecting property name"),
    ([], "no JSON object"),
    ({"prompt": "x"}, "none of the fields"),
    ({**HUMAN_EVAL, "prompt": "def halve("}, "was never closed"),
    ({**HUMAN_EVAL, "test": 3}, "its test is no text"),
    ({**HUMAN_EVAL, "entry_point": "a b"}, "is no name"),
    ({**MBPP, "test_list": []}, "test_list"),
    ({**MBPP, "test_list": ["assert 1 == 1"]}, "call no function"),
    ({**MBPP, "test_list": ["assert ("]}, "was never closed"),
    ({**STDIN, "private_test_cases": packed(Bomb())}, "a pickle of something else"),
    ({**STDIN, "private_test_cases": packed(["a"])}, "a pickle of something else"),
    ({**STDIN, "private_test_cases": "!"}, "base64"),
    ({**MBPP, "test_imports": 3}, "its test_imports is no list of texts"),
    ({**MBPP, "test_imports": [1]}, "its test_imports is no list of texts"),
    ({**MBPP, "test_imports": "import math"}, "its test_imports is no list of texts"),
    ({**STDIN, "public_test_cases": "[]", "private_test_cases": "[]"}, "it has no cases"),
    ({**STDIN, "public_test_cases": "[1]"}, "no list of objects"),
    ({**OURS, "tests": []}, "it has no cases"),
    ({**STDIN, "public_test_cases": '[{"input": 3, "testtype": "stdin"}]'}, "texts"),
    ({**FUNCTIONAL, "metadata": "{}"}, "func_name"),
    (OURS, "asks the same as line 1"),
  ],
)
def test_a_line_that_is_no_problem_is_named(record, told, tmp_path, known):
  path = write(tmp_path, OURS)
  text = record if isinstance(record, str) else json.dumps(record)
  path.write_text(f"{path.read_text()}{text}\n")
  with pytest.raises(ConfigError, match=f"line 2 .*{told}"):
    load_task(f"code:{path}")


def test_a_mark_at_the_beginning_of_a_file_is_no_part_of_it(tmp_path, known):
  path = write(tmp_path, OURS)
  path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
  assert len(load_task(f"code:{path}").problems) == 1


def test_half_a_surrogate_pair_is_no_character(tmp_path, known):
  task = load_task(f"code:{write(tmp_path, {**OURS, 'prompt': 'a' + chr(0xD800)})}")
  assert task.problems[0].prompt.startswith("a\ufffd")
  assert sum(map(len, task._splits.values())) == 1


@pytest.mark.parametrize("hidden", ["[]", [], None, packed("[]")])
def test_there_may_be_no_hidden_cases(hidden, tmp_path, known):
  path = write(tmp_path, {**STDIN, "private_test_cases": hidden})
  assert load_task(f"code:{path}").problems[0].data.cases == (("1 2\n", "3\n"),)


def test_files_that_hold_nothing_are_refused(tmp_path, known):
  with pytest.raises(ConfigError, match="cannot be read"):
    load_task(f"code:{tmp_path / 'none.jsonl'}")
  with pytest.raises(ConfigError, match="no problems"):
    load_task(f"code:{write(tmp_path)}")


def test_splits_are_disjoint_and_each_problem_comes_once(tmp_path, known):
  records = [{**OURS, "prompt": f"Print it {n} times."} for n in range(100)]
  task = load_task(f"code:{write(tmp_path, *records)}")
  parts = {split: task.of_split(split) for split in ("train", "heldout")}
  assert sum(map(len, parts.values())) == 100 and 10 < len(parts["heldout"]) < 30
  assert not {p.key for p in parts["train"]} & {p.key for p in parts["heldout"]}
  for split, problems in parts.items():
    size = len(problems)
    drawn = [task.sample(split, n, seed=3) for n in range(2 * size)]
    assert {p.key for p in drawn[:size]} == {p.key for p in problems}
    assert {p.key for p in drawn[size:]} == {p.key for p in problems}
    assert drawn != [task.sample(split, n, seed=4) for n in range(2 * size)]
    assert drawn == [task.sample(split, n, seed=3) for n in range(2 * size)]


def test_a_split_without_problems_says_how_to_have_some(tmp_path, known):
  task = load_task(f"code:{write(tmp_path, OURS)}")
  empty = "heldout" if task._splits["train"] else "train"
  with pytest.raises(ConfigError, match=f"none of the {empty} split.*@all"):
    task.sample(empty, 0, 0)


def test_what_is_isolated_already_is_not_isolated_again(tmp_path, known):
  assert not isinstance(load_task(f"isolated:code:{write(tmp_path, OURS)}"), Isolated)


def test_a_failure_of_the_sandbox_is_told_and_not_taken_for_a_wrong_answer(
  tmp_path, known, monkeypatch, capsys
):
  task = load_task(f"code:{write(tmp_path, OURS)}@all")
  monkeypatch.setattr(tasks, "judge", lambda *_: Verdict(Outcome.INFRASTRUCTURE, "no room"))
  scores = scoring.score_each(task, task.problems, [reply("print(1)")])
  assert scores[0].failed == "infrastructure" and (scores[0].correct, scores[0].format) == (0, 1)
  assert scoring.failures(scores) == {"infrastructure": 1}
  scoring.tell_failures(task.name, scores)
  assert "1 for infrastructure: no room" in capsys.readouterr().err


def test_programs_are_judged_side_by_side_and_scores_keep_their_order(tmp_path, known, monkeypatch):
  task = load_task(f"code:{write(tmp_path, OURS)}@all")
  cores = len(os.sched_getaffinity(0))
  meeting = threading.Barrier(cores, timeout=60)

  def judge(box, cases, program, limits):
    meeting.wait()
    return Verdict(Outcome.PASS if "7" in program else Outcome.WRONG)

  monkeypatch.setattr(tasks, "judge", judge)
  texts = [reply(f"print({n})") for n in range(cores * 8)]
  scores = task.score_each(task.problems * len(texts), texts)
  assert [score.correct for score in scores] == [float("7" in text) for text in texts]


def test_the_function_of_a_problem_is_looked_for(tmp_path, confined):
  task = load_task(f"code:{write(tmp_path, MBPP)}@all")
  text = f"```python\n{MBPP['code']}\n```\n\n```python\nprint(four('this'))\n```"
  assert task.score(task.problems[0], text).correct == 1


@pytest.mark.parametrize(
  ("output", "wanted", "same"),
  [
    (b"1 \n2\t\n\n", "1\n2", True),
    (b"1\r\n2\r\n", "1\n2\n", True),
    (b"", "\n", True),
    (b" 1", "1", False),
    (b"\n1", "1", False),
    (b"1  2", "1 2", False),
    (b"1.0", "1", False),
    (b"1\n2\n3", "1\n2", False),
    (b"1", "1\n2", False),
    (b"\xff", "\ufffd", False),
  ],
)
def test_only_white_space_at_ends_is_forgiven(output, wanted, same):
  assert same_output(output, wanted) is same


VALUES = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
  | st.complex_numbers(allow_nan=False) | st.binary(max_size=5),
  lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
  | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
  | st.frozensets(st.integers(), max_size=3) | st.sets(st.text(max_size=2), max_size=3),
  max_leaves=8,
)  # fmt: skip


@given(VALUES)
def test_values_cross_as_what_they_are(value):
  crossed = decode(json.loads(json.dumps(encode(value))))
  assert crossed == value and types(crossed) == types(value)


def types(value):
  """The type of a value, and of all that is in it; those of a set in any order."""
  if isinstance(value, dict):
    return dict, [(types(key), types(item)) for key, item in value.items()]
  if isinstance(value, (list, tuple)):
    return type(value), [types(item) for item in value]
  if isinstance(value, (set, frozenset)):
    return type(value), {type(item) for item in value}
  return type(value)


@pytest.mark.parametrize(
  "sent", [[], {}, {"a": 1, "b": 2}, {"eval": "1"}, {"int": ["7"]}, {"x": 1}]
)
def test_nothing_else_is_a_value(sent):
  with pytest.raises(ValueError, match="no value"):
    decode(sent)


def test_what_can_be_gone_through_crosses_as_what_it_is():
  def crossed(value):
    return decode(json.loads(json.dumps(encode(value))))

  named = {"a": 1, "b": 2}
  for value in (range(2, 9, 3), deque([1, (2,)]), named.keys(), named.items()):
    assert crossed(value) == value and list(crossed(value)) == list(value)
  assert list(crossed(named.values())) == [1, 2] and len(crossed(named.values())) == 2
  for value in (map(str, [1, 2]), (str(n) for n in (1, 2)), iter(["1", "2"])):
    there = crossed(value)
    assert there != ["1", "2"] and list(there) == ["1", "2"] and list(there) == []
  with pytest.raises(TypeError, match="does not cross"):
    encode(itertools.count())


@pytest.mark.parametrize(
  ("test", "told"),
  [
    ("import nowhere", "ModuleNotFoundError"),
    ("assert nothing.isclose(f(1), 1)", "NameError"),
    ("def check(f): assert f(1) == absent", "absent"),
    ("from math import nothing", "ImportError"),
  ],
)
def test_a_test_that_fails_by_itself_is_no_wrong_answer(test, told, confined):
  called = "\ncheck(f)" if "check" in test else ""
  verdict = judge(confined, Assertions(("f",), test + called), "def f(n): return n")
  assert verdict.outcome is Outcome.INFRASTRUCTURE and told in verdict.message


@pytest.mark.parametrize("body", ["import nowhere", "return nothing", "return 0", "f(x); x = 1"])
def test_a_program_that_fails_is_no_failure_of_its_test(body, confined):
  cases = Assertions(("f",), "def check(f): assert 1 in f(1)\ncheck(f)")
  assert judge(confined, cases, f"def f(n): {body}").outcome is Outcome.CRASH


def test_what_is_opaque_is_equal_to_nothing():
  assert decode({"opaque": True}) != decode({"opaque": True})
  assert bool(Opaque(True)) and not Opaque(False)


def test_the_functions_of_tests_are_those_that_nobody_defines():
  tests = "assert f(g(x) for x in [1]) == len([h.k(2)])\nassert [f(y) for y in (1,)]"
  assert called_functions(tests, "import h\ndef g(x): return x") == ["f"]
