"""LiveCodeBench's problems are judged as its own runner judges them, and others are not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.tasks.code.cases import Outputs, Values
from deepseek_jax.tasks.code.cases import same_output as exactly
from deepseek_jax.tasks.code.judge import Outcome, judge
from deepseek_jax.tasks.code.live_code_bench import same_output
from deepseek_jax.tasks.code.sandbox import sandbox
from deepseek_jax.tasks.registry import load_task

SUM = Outputs((("1 2\n", "3\n"),), live_code_bench=True)
PAIR = Values("pair", (("[4]", "[4, 4]"),))
DEEP = "def f(n): return n and f(n - 1)\n"


@pytest.fixture
def box():
  try:
    return sandbox()
  except ConfigError as error:
    pytest.skip(str(error))


@pytest.mark.parametrize(
  ("output", "wanted", "same"),
  [
    (b" 1\n\t2 ", "1\n2\n", True),
    (b"\n1", "1", True),
    (b"1  2", "1 2", True),
    (b"1.0 2e0", "1 2", True),
    (b"0.10", ".1", True),
    (b"a  b", "a b", False),
    (b"1.0 a", "1 a", False),
    (b"1 2", "1\n2", False),
    (b"1\n\n2", "1\n2", False),
    (b"1 2 3", "1 2", False),
    (b"0.1000000000000000000000000000000001", "0.1", False),
    (b"nan", "1", False),
    (b"sNaN", "1", False),
    (b"sNaN", "sNaN 1", False),
    (b"1e999999999", "1", False),
    (b"", "1", False),
    (b"\xff", "\ufffd", False),
  ],
)
def test_lines_agree_as_texts_or_as_numbers(output, wanted, same):
  assert same_output(output, wanted) is same


@given(st.lists(st.lists(st.sampled_from(("1", "2.5", "-3", "x")), max_size=3), max_size=3))
def test_it_is_milder_than_an_exact_comparison(words):
  text = "\n".join(map(" ".join, words))
  assert exactly(text.encode(), text) and same_output(text.encode(), text)
  assert same_output(text.replace("2.5", "2.50").encode(), text) is (
    all("2.5" not in line or "x" not in line for line in words)
  )


@pytest.mark.parametrize(
  ("cases", "program"),
  [
    (SUM, "print(reduce(add, map(int, stdin.readline().split())))"),
    (SUM, "from __future__ import annotations\nn: Nothing = 3\nprint(float(n), '')"),
    (SUM, f"{DEEP}print(f(20000) + 3)"),
    (SUM, "@functools.cache\ndef f(): print(Counter(a=3)['a'])\nif __name__ == '__main__': f()"),
    (PAIR, "def pair(n): return tuple(deque([n] * 2)) if gcd(n, 2) == 2 else json"),
    (PAIR, f"from __future__ import annotations\n{DEEP}def pair(n): return [f(20000) + n] * 2"),
  ],
)
def test_imports_and_recursion_are_granted(cases, program, box):
  verdict = judge(box, cases, program)
  assert verdict.outcome is Outcome.PASS, verdict


@pytest.mark.parametrize(
  ("program", "outcome"),
  [
    ("print(4)", Outcome.WRONG),
    ("print('3', 'x')", Outcome.WRONG),
    ("raise MemoryError", Outcome.MEMORY),
    ("print(3); raise ValueError", Outcome.CRASH),
    ("print('", Outcome.CRASH),
    ("'\udc80'", Outcome.CRASH),
  ],
)
def test_nothing_else_is(program, outcome, box):
  assert judge(box, SUM, program).outcome is outcome


def test_our_own_form_stays_exact(box, tmp_path):
  theirs = {"question_content": "a", "public_test_cases": [{"input": "", "output": "1 2\n"}]}
  ours = {"prompt": "b", "tests": theirs["public_test_cases"]}
  path = tmp_path / "problems.jsonl"
  path.write_text(f"{json.dumps(theirs)}\n{json.dumps(ours)}\n")
  task = load_task(f"code:{path}@all")
  for program, told in (("print('1 2')", [1, 1]), ("print(' 1 2.0')", [1, 0])):
    scores = task.score_each(task.problems, [f"```python\n{program}\n```"] * 2)
    assert [score.correct for score in scores] == told
