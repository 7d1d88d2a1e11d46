"""Candidates, verdicts and changes of thoughts in which they are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.config import ConfigError
from deepseek_jax.evaluate.file_benchmark import FileBenchmark
from deepseek_jax.evaluate.reflection import measures
from deepseek_jax.evaluate.reflection.turns import (
  answer_form,
  before_words,
  candidates_of,
  trace_each,
)
from deepseek_jax.tasks.chain_sum import ChainSum, chain_sum_problem
from deepseek_jax.tasks.countdown import Countdown, countdown_problem
from deepseek_jax.tasks.task import Candidate, Problem, Score
from tests.deepseek_jax.evaluate.reflection.told import evaluation

TASK = Countdown()
PROBLEM = countdown_problem((3, 7, 2), 8, "en")  # 3 7 -2
TAGS = "<think> </think> <answer> {} </answer>"


def tagged(thought, answer):
  return f"<think> {thought} </think> <answer> {answer} </answer>"


WRONG, OTHER, RIGHT = "3 -7 -4 2 -2 vs 8 low", "3 7 10 2 12 vs 8 high", "3 7 10 -2 8 vs 8 right"
CASES = {  # what the thought does: changed, right before, right after, of each turn
  "guesses": (tagged("", "3 7 -2"), []),
  "tries once": (tagged(RIGHT, "3 7 -2"), []),
  "mends": (tagged(f"{WRONG} wait {RIGHT}", "3 7 -2"), [(True, False, True)]),
  "spoils": (tagged(f"{RIGHT} wait {WRONG}", "3 -7 2"), [(True, True, False)]),
  "repeats": (tagged(f"{WRONG} wait {WRONG}", "3 -7 2"), [(False, False, False)]),
  "searches": (
    tagged(f"{WRONG} wait {OTHER} 等等 {RIGHT}", "3 7 -2"),
    [(True, False, False), (True, False, True)],
  ),
  "turns without a word": (tagged(f"{WRONG} {RIGHT}", "3 7 -2"), [(True, False, True)]),
  "turns without another trial": (tagged(f"{RIGHT} wait", "3 7 -2"), [(False, True, True)]),
  "breaks off": (f"<think> {RIGHT} wait 3 7 -2", [(True, True, False)]),
}


def traces(task, problems, texts):
  found = evaluation(task, problems, texts)
  return trace_each(task, found, answer_form(task, [found])), found


@pytest.mark.parametrize("case", CASES)
def test_turns_of_known_thoughts(case):
  text, wanted = CASES[case]
  (row,), _ = traces(TASK, [PROBLEM], [[text]])
  assert [tuple(turn) for turn in row[0].turns] == wanted
  for candidate in row[0].candidates:
    assert text[candidate.start : candidate.end] in (WRONG, OTHER, RIGHT)
  assert [text[w.start : w.end] for w in row[0].words] == [
    part for part in text.split() if part in ("wait", "等等")
  ]


def test_a_number_in_an_open_thought_is_no_answer():
  problem = chain_sum_problem((3, 4), "en")
  texts = ["<think> 3 4 makes 7 wait 7", tagged("3 4 makes 7 wait 7", 7)]
  (row,), _ = traces(ChainSum(), [problem], [texts])
  assert [tuple(turn) for turn in row[0].turns] == [(True, True, False)]
  assert [tuple(turn) for turn in row[1].turns] == [(False, True, True)]


def test_an_answer_lost_by_its_form_alone_is_not_spoiled_by_a_turn():
  problem = chain_sum_problem((3, 4), "en")
  found, made = traces(ChainSum(), [problem], [["3 4 makes 7 wait 7"]])
  assert [tuple(turn) for turn in found[0][0].turns] == [(False, True, False)]
  counts = measures.count(made, found)
  assert counts["rechecks"] == 1 and counts["spoiled"] == counts["changed"] == 0


def test_rates_of_known_thoughts():
  """Five problems, each said in all ways: the figures are those counted by hand."""
  problems = [countdown_problem((3, 7, 2), 8, language) for language in ("en", "zh")] * 3
  texts = [[text for text, _ in CASES.values()]] * len(problems)
  found, made = traces(TASK, problems, texts)
  counts = measures.count(made, found)
  figures = {f["metric"]: f for f in measures.levels("r1", made, counts)}
  turns = [turn for _, wanted in CASES.values() for turn in wanted]
  changed = [turn for turn in turns if turn[0]]
  tokens = sum(len(text.split()) for text, _ in CASES.values())
  words = sum(part in ("wait", "等等") for text, _ in CASES.values() for part in text.split())
  wanted = {
    "reflection_per_1000": 1000 * words / tokens,
    "waits_per_1000": 1000 * words / tokens,
    "with_reflection": 6 / 9,
    "rechecks": len(turns) / 9,
    "with_recheck": 7 / 9,
    "changed": len(changed) / len(turns),
    "mended": 3 / len(changed),
    "spoiled": 2 / len(changed),
    "net": 1 / len(changed),
    "length": tokens / 9,
    "pass@1": 6 / 9,
  }
  assert {name: f["value"] for name, f in figures.items()} == pytest.approx(wanted)
  assert figures["changed"]["samples"] == 6 * len(turns)
  assert figures["net"]["samples"] == 6 * len(changed)
  assert figures["rechecks"]["samples"] == figures["reflection_per_1000"]["samples"] == 54
  for f in figures.values():
    assert f["ci95"][0] <= f["value"] <= f["ci95"][1]


def test_gains_over_a_base_are_paired_and_few_turns_make_no_figure():
  problems = [countdown_problem((d, 7, 2), d + 5, "en") for d in range(1, 9)]
  guess, mend = CASES["guesses"][0], CASES["mends"][0]
  base, base_made = traces(TASK, problems, [[guess, guess]] * 8)
  model, made = traces(TASK, problems, [[mend, guess]] * 8)
  counts = measures.count(made, model), measures.count(base_made, base)
  gains = {f["metric"]: f for f in measures.gains("r1", "base", made, *counts)}
  assert gains["rechecks over base"]["value"] == 0.5
  assert gains["rechecks over base"]["ci95"] == [0.5, 0.5], "every problem differs by as much"
  assert gains["rechecks over base at equal length"]["value"] == 0
  assert "changed over base" not in gains and "length over base at equal length" not in gains
  named = {"r1": counts[0], "base": counts[1]}
  short, long = measures.by_length(named, measures.measure_called("rechecks"))
  assert (short.name, long.name) == ("7-23", "24")
  assert (short.samples, long.samples) == ({"r1": 8, "base": 16}, {"r1": 8, "base": 0})
  assert (short.estimates["r1"].value, long.estimates["r1"].value) == (0, 1)
  assert short.estimates["base"].value == 0 and long.estimates["base"] is None


def test_accuracy_by_length_is_that_of_each_bin():
  problems = [countdown_problem((d, 7, 2), d + 5, "en") for d in range(1, 9)]
  texts = [
    [tagged("", f"{p.data.digits[0]} 7 2")] * 3 + [tagged("1 2 3", f"{p.data.digits[0]} 7 -2")] * 3
    for p in problems
  ]
  found, made = traces(TASK, problems, texts)
  short, long = measures.accuracy_by_length(made, {"r1": measures.count(made, found)})
  assert (short["metric"], long["metric"]) == ("pass@1 at 7-9 tokens", "pass@1 at 10 tokens")
  assert (short["value"], long["value"]) == (0, 1) and short["samples"] == long["samples"] == 24
  assert short["ci95"][1] > 0 and long["ci95"][0] < 1


GENERAL = {
  "so x = 5. Wait, check: 6 apples, no, 7": [("5", "5"), ("7", "7")],
  "5 wait but 6": [("5", "5"), ("6", "6")],
  "no number. wait": [],
  "\\boxed{\\frac{1}{2}}, however 0.5": [("\\frac{1}{2}", "\\frac{1}{2}"), ("0.5", "0.5")],
  "一共 12 个。等等，应该是 13": [("12", "12"), ("13", "13")],
}


@pytest.mark.parametrize("thought", GENERAL)
def test_without_a_finder_candidates_are_the_last_numbers_before_words(thought):
  found = [(c.answer, thought[c.start : c.end]) for c in before_words(thought)]
  assert found == GENERAL[thought]


@given(st.text(alphabet=list("57 .wait butcheck\n等{}\\boxed"), max_size=60))
def test_candidates_lie_in_their_thought_in_order(thought):
  found = before_words(thought)
  places = [place for c in found for place in (c.start, c.end)]
  assert places == sorted(places) and all(0 <= place <= len(thought) for place in places)


def test_a_files_numbers_are_judged_by_its_own_rules():
  task = FileBenchmark("f", (Problem("1/2 ?", "f", "f 1", answer="1/2"),), "exact")
  texts = ["<think> 0.25, wait, 0.5 </think> \\boxed{\\frac12}", "It is 3. Wait: \\boxed{0.5}"]
  (row,), _ = traces(task, task.problems, [texts])
  assert [tuple(turn) for turn in row[0].turns] == [(True, False, True)]
  assert row[0].right == (False, True) and row[1].right == (False, True)
  assert len(row[1].turns) == 1


class Untagged:
  """A verifier that wants the answer alone, whose problems do not say it."""

  name = "untagged"

  def score(self, problem, text):
    return Score(float(text.strip() == problem.data), 1.0, 1.0)


def test_the_form_is_one_in_which_the_verifier_accepts():
  problems = [Problem("?", "untagged", "1", data="7")]
  assert answer_form(Untagged(), [evaluation(Untagged(), problems, [["7", "x"]])]) == "{}"
  told = evaluation(TASK, [PROBLEM], [[tagged("", "3 7 -2"), ""]])
  assert answer_form(TASK, [told]) == TAGS
  nothing = evaluation(TASK, [PROBLEM], [["", ""]])
  assert answer_form(TASK, [nothing]) == TAGS
  assert answer_form(TASK, [nothing, told]) == TAGS
  boxes = FileBenchmark("f", (Problem("?", "f", "1", answer="7"),), "exact")
  assert "{}" in answer_form(boxes, [evaluation(boxes, boxes.problems, [["", ""]])])


class Strange(Countdown):
  """One with a finder of a stranger's."""

  def __init__(self, find):
    object.__setattr__(self, "candidates", find)


def test_a_strangers_finder_is_asked_and_named_where_it_fails():
  own = Strange(lambda problem, thought: [Candidate("b", 3, 4), Candidate("a", 0, 1)])
  assert [c.answer for c in candidates_of(own, PROBLEM, "abcde")] == ["a", "b"]
  none = Strange(lambda problem, thought: None)
  assert [c.answer for c in candidates_of(none, PROBLEM, "5 wait 6")] == ["5", "6"]
  for find in (lambda p, t: 1 / 0, lambda p, t: 5, lambda p, t: ["x"]):
    with pytest.raises(ConfigError, match="'countdown': its candidates of 'countdown 3 7 2 = 8'"):
      candidates_of(Strange(find), PROBLEM, "abc")
  beyond = Strange(lambda problem, thought: [Candidate("b", 0, 9)])
  with pytest.raises(ConfigError, match="is not in its text"):
    candidates_of(beyond, PROBLEM, "abc")
