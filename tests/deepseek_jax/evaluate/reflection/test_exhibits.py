"""The page: what is marked, and that no completion can put anything into it."""

import dataclasses
import html
import re

from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.evaluate.reflection.counterfactual import Branch
from deepseek_jax.evaluate.reflection.exhibits import marked, render
from deepseek_jax.evaluate.reflection.measures import count
from deepseek_jax.evaluate.reflection.study import Subject
from deepseek_jax.evaluate.reflection.turns import trace_each
from deepseek_jax.tasks.countdown import Countdown, countdown_problem
from tests.deepseek_jax.evaluate.reflection.told import evaluation
from tests.deepseek_jax.evaluate.test_report import Balance

TASK = Countdown()
PROBLEM = countdown_problem((3, 7, 2), 8, "en")
FORM = "<think> </think> <answer> {} </answer>"
HOSTILE = "</td></table><script>alert('x')</script><img src=x onerror=alert(1)>&lt;"


def trace(text):
  return trace_each(TASK, evaluation(TASK, [PROBLEM], [[text]]), FORM)[0][0]


def test_candidates_and_words_are_marked():
  text = "<think> 3 -7 -4 2 -2 vs 8 low wait 3 7 10 -2 8 vs 8 right </think> 3"
  assert marked(trace(text)) == (
    "&lt;think&gt; <span class=wrong>3 -7 -4 2 -2 vs 8 low</span> <mark>wait</mark> "
    "<span class=right>3 7 10 -2 8 vs 8 right</span> &lt;/think&gt; 3"
  )
  assert marked(trace("")) == "<i>nothing</i>"


PARTS = st.sampled_from(
  ["3 7 10 vs 8", "wait", "等等", "<b>", "&amp;", HOSTILE, "'", '"', " ", "x"]
)


@given(st.lists(PARTS, max_size=8))
def test_what_is_shown_is_the_text_and_no_markup_of_its_own(parts):
  text = "".join(parts)
  shown = marked(trace(text))
  bare = re.sub(r"</?mark>|<span class=(right|wrong)>|</span>|<i>nothing</i>", "", shown)
  assert "<" not in bare and html.unescape(bare) == text


def subjects():
  problems = [dataclasses.replace(PROBLEM, key=str(i), prompt=f"{HOSTILE} {i}") for i in range(6)]
  found = []
  for stage, verdict in (("base<b>", "low"), ("r1_zero", HOSTILE)):
    texts = [
      [f"<think> 3 -7 -4 2 -2 vs 8 {verdict} wait {HOSTILE} 3 7 10 -2 8 vs 8 </think> {HOSTILE}"]
      * 2
    ] * 6
    made = evaluation(TASK, problems, texts)
    traces = trace_each(TASK, made, FORM)
    branches = [
      Branch("strip", p, 0, texts[0][0] + HOSTILE, 9, False, 0.0, False) for p in range(5)
    ]
    found.append(Subject(stage, made, traces, count(made, traces), branches, HOSTILE))
  return found


def test_the_page_is_whole_and_a_hostile_completion_puts_nothing_into_it():
  base, model = subjects()
  figures = [*base.figures(), *model.figures(), *model.over(base)]
  page = render(f"Of {HOSTILE}", {"model": HOSTILE}, [base, model], figures)
  parser = Balance()
  parser.feed(page)
  assert not parser.open
  assert "<script" not in page and "<img src=x" not in page and "onerror=alert(1)>" not in page
  assert len(parser.sources) == 1 and parser.sources[0].startswith("data:image/svg+xml;base64,")
  told = " ".join(parser.text)
  sections = ("Rates", "By length", "What a turn is worth", "Thoughts", "Gone on with otherwise")
  for wanted in (*sections, "at equal length", "behind a wrong answer", "base<b>", HOSTILE):
    assert wanted in told, wanted


def test_one_model_alone_has_a_page_without_differences():
  _, model = subjects()
  page = render("Alone", {}, [model], model.figures())
  assert "difference" not in page and "At equal length" not in page and "r1_zero" in page
  bare = dataclasses.replace(model, branches=())
  assert "Gone on" not in render("Alone", {}, [bare], bare.figures())


def test_equal_studies_give_equal_pages():
  pages = {
    render("x", {}, both, [f for s in both for f in s.figures()])
    for both in (subjects(), subjects())
  }
  assert len(pages) == 1
