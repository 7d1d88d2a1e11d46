"""The program in a completion: which block it is, and where that ends."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_jax.tasks.code.program_text import program_of


@pytest.mark.parametrize(
  ("text", "program"),
  [
    ("```python\na\n```", "a\n"),
    ("```python\na\n```\nor\n```python\nb\n```\n", "b\n"),
    ("```py\na\n```\nprints\n```\n7\n```", "a\n"),
    ("```\na\n```\n```\nb\n```", "b\n"),
    ("```text\n7\n```", "```text\n7\n```\n"),
    ("```python\na\n```\n```python\nb", "a\n"),
    ("<think> ```python\na\n``` </think> ```python\nb\n```", "b\n"),
    ("```python\na\n``` </think> b", " b\n"),  # the prompt opened the thought
    ("<think> ```python\na\n```", None),
    ("<think> </think> <answer> ```python\na\n```", None),  # cut off
    ("<think> </think> <answer>a</answer> b", "a\n"),
    ("<think> </think>", None),
    ("", None),
    ("    return 1\n", "    return 1\n"),
    ("  ```python\n  a\n  ```", "a\n"),
    ("1. So:\n\n   ```python\n   if a:\n     b\n\n  c\n   ```\n2. d", "if a:\n  b\n\nc\n"),
    ('```python title="a.py"\na\n```', "a\n"),
    ("~~~python\na\n```\n~~~", "a\n```\n"),
    ("```{python}\na\n```", "a\n"),
    ("```{.python .numberLines}\na\n```", "a\n"),
    ("``` Python\na\n```", "a\n"),
    ("````\na\n```\n````", "a\n```\n"),
    ('```python\na = """\n```\n```python\n"""\n```\n', 'a = """\n```\n```python\n"""\n'),
    ("```python\na = '''\n```\n\\'''```\n'''\n```\n", "a = '''\n```\n\\'''```\n'''\n"),
    ("```python\na = '''\n```\n```python\n'''b'''\n```", "'''b'''\n"),
    ("```python\na = '''\n```\nsay", "a = '''\n"),
    ("```python\na # it's '''\nb = \"'''\"\n```", "a # it's '''\nb = \"'''\"\n"),
    ("```python\na\nb``` \nso\n```\n7\n```", "a\nb\n"),
    ("```python\na = '```\n# ```\nb = '''c'''```\n", "a = '```\n# ```\nb = '''c'''\n"),
    ("> So:\n>\n> ```python\n> if a:\n>   b\n>\n>c\n> ```\nor", "if a:\n  b\n\nc\n"),
    (">> ```\n>> a\n> > > b\n>> ```", "a\n> b\n"),
    ("1. > ```python\n", "1. > ```python\n"),
    ("> ```python\n> a\nb\n```python\nc\n```", "c\n"),  # b is not quoted, and ends the quotation
    ("> ```python\n> a\n\n> b\n> ```", "a\n\nb\n"),
    ("> ```python\n> a = '''\n> ```\nso\n```python\nb\n```", "b\n"),
    ("```python\n> a\n> ```python\n```", "> a\n> ```python\n"),
    ("```python\na = '''\n> ```\n'''\n```", "a = '''\n> ```\n'''\n"),
  ],
)
def test_the_program_is_the_last_block_of_the_answer(text, program):
  assert program_of(text) == program


lines = st.lists(st.text("ab >#'\"\\", max_size=8), max_size=6)


@given(lines, lines, st.sampled_from([">", "> ", ">>", "> > ", " > "]))
@settings(deadline=None)
def test_what_a_text_has_for_a_program_it_has_in_a_quotation(before, code, mark):
  said = [line for line in before if ">" not in line]
  text = [*said, "```python", *code, "```", "so"]
  quoted = "".join(f"{mark.rstrip()} {line}\n" for line in text)
  assert program_of(quoted) == program_of("".join(f"{line}\n" for line in text))


@pytest.mark.parametrize("example", ["print(f(1))", "x = g(2)"])
def test_an_example_of_its_use_does_not_stand_for_the_function(example):
  first, last = "def f(): 1", "class Solution:\n  def f(self): 2"
  text = "".join(f"```python\n{block}\n```\nso\n" for block in (first, last, example))
  assert program_of(text, ["f"]) == f"{last}\n"
  assert program_of(text, ["h"]) == program_of(text) == f"{example}\n"
  more = "def g(): 3\nf = g"
  assert program_of(f"```python\n{more}\n```\n{text}", ["f", "g"]) == f"{more}\n"


@pytest.mark.parametrize(
  "text",
  [
    "```python\n" * 200_000,
    "```python\n\\'''\n```\n" * 50_000,
    "```python\n" + "`" * 10**6 + "x\n" + "~" * 10**6 + "x`\n```",
    "```python\n" + "\\" * 10**6 + "\n" + "'''a" * 10**5 + '"' * 10**6 + "\n```",
    "> " * 10**5 + "```python\n" + ("> " * 10**5 + "a\n") * 5 + "> " * 10**5 + "```",
    " " * 10**6 + "```python\n```" + " " * 10**6 + "x`",
  ],
)
def test_finding_the_program_is_linear(text):
  began = time.monotonic()
  assert program_of(text, ["f"]) is not None
  assert time.monotonic() - began < 10
