"""A benchmark's answers, judged by their forms and by Math-Verify; and completions that cheat."""

import json

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate import mathematics
from deepseek_jax.evaluate.answers import extract_answer, gold_answer
from deepseek_jax.evaluate.file_benchmark import FileBenchmark, load_file_benchmark
from deepseek_jax.tasks.task import Problem
from deepseek_jax.tasks.workers import Limits, Workers


@pytest.fixture(params=["exact", "math-verify"])
def judge(request):
  if request.param == "math-verify":
    pytest.importorskip("math_verify")
  return request.param


@pytest.fixture
def impatient(monkeypatch):
  """Math-Verify with half a second for each answer."""
  pool = Workers(f"{mathematics.__name__}:_verifier", limits=Limits(seconds=0.5))
  monkeypatch.setattr(mathematics, "_pool", lambda: pool)
  yield
  pool.close()


def score(judge, cases):
  """Scores and lenient judgements of (wanted, text) pairs."""
  problems = [Problem("?", "f", f"f {n}", answer=wanted) for n, (wanted, _) in enumerate(cases)]
  texts = [text for _, text in cases]
  task = FileBenchmark("f", tuple(problems), judge)
  scores = task.score_each(problems, texts)
  return scores, task.lenient_each(problems, texts, scores)


def boxed(answer):
  return f"<think> t </think> so \\boxed{{{answer}}}."


BY_FORM = [
  ("\\frac{1}{2}", "0.5"), ("5", "x=5"), ("1000", "1{,}000"), ("32349", "32,\\! 349"),
  ("28\\%", "28 percent"), ("3", "3 \\textnormal{ cm}"), ("B", "\\text{(B)}"), ("(1,2)", "(1, 2)"),
  ("Paris", "\\text{Paris}"),
]  # fmt: skip
BY_MATHEMATICS = [
  ("\\sqrt{8}", "2\\sqrt2"), ("x+1", "1+x"), ("2^{10}", "1024"), ("\\{1,2\\}", "\\{2,1\\}"),
  ("x<3", "3>x"), ("\\frac{\\pi}{2}", "0.5\\pi"), ("10!", "3628800"),
  ("x^2-1", "(x-1)(x+1)"), ("1, 2", "2 \\text{ and } 1"), ("\\tan^2 y + 1", "\\sec^2 y"),
  ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix}1\\\\2\\end{bmatrix}"),
]  # fmt: skip


def test_right_answers_in_other_forms(judge):
  by_form, lenient = score(judge, [(wanted, boxed(given)) for wanted, given in BY_FORM])
  assert [s.correct for s in by_form] == [1.0] * len(BY_FORM) and all(lenient)
  assert {s.judge for s in by_form} == {"exact"}
  others, _ = score(judge, [(wanted, boxed(given)) for wanted, given in BY_MATHEMATICS])
  assert {s.judge for s in others} == {judge}
  assert [s.correct for s in others] == [float(judge == "math-verify")] * len(BY_MATHEMATICS)


WRONG = [
  # Two answers where one is asked for.
  ("6", "<answer>5</answer> <answer>6</answer>"), ("6", boxed("5 or 6")), ("5", boxed("5 or 6")),
  ("6", "\\boxed{5} or \\boxed{6}"), ("6", "$\\boxed{5}$ and $\\boxed{6}$"),
  ("6", "\\boxed{5}, \\boxed{6}"), ("6", boxed("5, 6")), ("6", boxed("x=5 \\text{ or } x=6")),
  ("6", boxed("6 5")), ("11", boxed("6 5")), ("0", boxed("1 000")), ("A", boxed("A or B")),
  ("5", boxed("x = 5, y = 7")), ("7", boxed("x = 5, y = 7")), ("6", boxed("\\{6,7\\}")),
  ("6", boxed("\\text{maybe }6\\text{ or }7")),
  # No answer: in the thought, before its end, in tags or boxes that are not closed.
  ("6", "<think> so \\boxed{6} "), ("6", "<think> \\boxed{6} </think> none"),
  ("6", "<think> a </think> <answer> 6"), ("6", "<think> <answer> 6 </answer> "),
  ("6", "<think> a </think> <think> \\boxed{6}"), ("6", "**6**"), ("6", ""), ("6", boxed("")),
  ("6", "The answer is 6. \\boxed{}"), ("6", "\\boxed{" * 2000 + "6"),
  # False equations, relations and signs.
  ("6", boxed("5=6")), ("5", boxed("5=6")), ("6", boxed("x=5=6")), ("6", boxed("5 \\neq 6")),
  ("6", boxed("\\neq 6")), ("6", boxed("5<6")), ("6", boxed("x>6")), ("6", boxed("-6")),
  ("-6", boxed("6")), ("6", boxed("6!")), ("6", boxed("6i")), ("6", boxed("6 \\pm 1")),
  ("5", boxed("5x")), ("1", boxed("1=2")), ("x=5", boxed("y=6")), ("\\infty", boxed("-\\infty")),
  # Words, anagrams, digits of other scripts.
  ("Paris", boxed("Pairs")), ("no", boxed("on")), ("6", boxed("not 6")), ("7", boxed("\uff17")),
  ("6", boxed("\u0667")), ("B", boxed("8")), ("A", boxed("AB")), ("nan", boxed("6")),
  # Near, but not the same.
  ("6", boxed("6.0001")), ("6", boxed("6,000")), ("12", boxed("1,2")), ("1,2", boxed("12")),
  ("(1,2)", boxed("(2,1)")), ("[0,1)", boxed("(0,1]")), ("[0,1)", boxed("[0,1]")),
  ("\\frac{1}{3}", boxed("0.333")), ("\\pi", boxed("3.14")), ("\\sqrt{2}", boxed("1.41")),
  ("\\{1,2\\}", boxed("\\{1\\}")), ("x+1", boxed("y+1")), ("50\\%", boxed("0.05")),
  # Very much of something, and programs.
  ("6", boxed("6" * 1_000_000)), ("6", "\\boxed{6 " + " " * 500_000 + "7}"),
  ("6", boxed("(" * 5000 + "6" + ")" * 5000)), ("6", boxed("9**9**9**9")),
  ("6", boxed("__import__('os').getcwd()")), ("6", boxed("\\phantom{6}7")),
  ("6", boxed("\\frac{6}{0}")), ("1/0", boxed("2/0")),
]  # fmt: skip


def test_no_hostile_completion_is_accepted(judge):
  scores, _ = score(judge, WRONG)
  accepted = [case for case, s in zip(WRONG, scores, strict=True) if s.correct]
  assert not accepted, [(wanted, text[:60]) for wanted, text in accepted]


def test_what_takes_too_long_is_counted_and_wrong(impatient):
  pytest.importorskip("math_verify")
  scores, lenient = score("math-verify", [("6", boxed("9^{9^{9^{9}}}")), ("6", boxed("2\\cdot3"))])
  assert [s.failed for s in scores] == ["time", ""]
  assert [s.correct for s in scores] == [0.0, 1.0] and lenient == [False, True]
  assert [s.format for s in scores] == [1.0, 1.0]


def test_lenient_takes_what_is_said_without_a_box(judge):
  cases = [("1/2", "<think> 3 </think> It is 0.5."), ("4", "<think> 4 </think> It is 5."),
           ("2", "AZYUK2A"), ("3", "as $x = 3$")]  # fmt: skip
  scores, lenient = score(judge, cases)
  assert [s.correct for s in scores] == [0.0] * 4
  assert lenient[:2] == [True, False] and lenient[3]
  if judge == "exact":
    assert not lenient[2], "a digit within a word is no number"


def test_boxes_side_by_side_are_one_answer():
  assert extract_answer("\\boxed{1}, \\boxed{2} and \\boxed{3}") == "1, 2, 3"
  assert extract_answer("first \\boxed{1}. Then \\boxed{2}") == "2"
  assert extract_answer("\\boxed{4} \\boxed{4}") == "4"
  assert extract_answer("\\boxed{\\boxed{6}}") == "6"


def test_a_worked_solution_has_its_answer_in_its_box_or_behind_its_mark():
  assert gold_answer("so $4 + 1 = \\boxed{5}$.") == "5"
  assert gold_answer("4 + 1 = 5\n#### 5") == "5"
  assert gold_answer(" \\frac12 ") == "\\frac12"


def write(path, answers):
  lines = [json.dumps({"prompt": "q", "answer": answer}) for answer in answers]
  path.write_text("\n".join(lines), encoding="utf-8")
  return path


def test_a_gold_answer_that_cannot_be_read_is_refused_by_line(tmp_path, impatient):
  pytest.importorskip("math_verify")
  path = write(tmp_path / "sums.jsonl", ["5", "(" * 900 + "6" + ")" * 900])
  with pytest.raises(ConfigError, match=r"line 2, has '\(\(.* cannot be read: .* 0.5 s"):
    load_file_benchmark(path, "math-verify")
  assert load_file_benchmark(path, "exact").judge == "exact"


def test_gold_answers_that_are_words_are_told(tmp_path, capsys):
  pytest.importorskip("math_verify")
  task = load_file_benchmark(write(tmp_path / "towns.jsonl", ["Paris", "5", "Rome"]))
  assert task.judge == "math-verify"
  assert "2 of 3 answers of towns are no mathematics, as 'Paris'" in capsys.readouterr().err
  assert task.score(task.problems[0], boxed("\\text{paris}")).correct == 1.0


def test_without_math_verify_the_forms_judge_and_it_is_told(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(mathematics, "installed", lambda: "")
  path = write(tmp_path / "sums.jsonl", ["5"])
  assert load_file_benchmark(path).judge == "exact"
  assert "pip install 'deepseek-jax[math]'" in capsys.readouterr().err
  with pytest.raises(ConfigError, match="math-verify is not installed"):
    load_file_benchmark(path, "math-verify")
  with pytest.raises(ConfigError, match="judge is 'best'"):
    load_file_benchmark(path, "best")


def test_the_fields_that_others_use(tmp_path):
  records = [{"problem": "p", "solution": "so \\boxed{5}"}, {"question": "q", "answer": 7},
             {"problem": "r", "solution": "s", "answer": "8"}]  # fmt: skip
  path = tmp_path / "b.json"
  path.write_text(json.dumps(records))
  task = load_file_benchmark(path, "exact")
  assert [(p.prompt, p.answer) for p in task.problems] == [("p", "5"), ("q", "7"), ("r", "8")]
  path.write_text(json.dumps([{"problem": "p", "question": "q", "answer": 7}]))
  with pytest.raises(ConfigError, match="record 1, has the fields problem and question"):
    load_file_benchmark(path, "exact")
