"""Thoughts cut and gone on with: what is cut where, and that nothing changed changes nothing."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_jax.data.asking import ask
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.decode.engine import Samples, SlotEngine
from deepseek_jax.evaluate.evaluation import Protocol, evaluate
from deepseek_jax.evaluate.reflection.counterfactual import (
  BOX,
  Splice,
  branch_each,
  closing_of,
  cut_tokens,
  effects,
  go_on,
)
from deepseek_jax.evaluate.reflection.study import study
from deepseek_jax.evaluate.reflection.turns import answer_form, trace_each
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.presets import preset
from deepseek_jax.tasks.countdown import Countdown, countdown_problem
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.types import Weights
from tests.deepseek_jax.evaluate.reflection.told import evaluation

WORD, BYTE = load_tokenizer("word"), load_tokenizer("byte")
TASK = Countdown()
PROBLEMS = [countdown_problem((3, 7, 2), 8, "en"), countdown_problem((4, 7, 2), 9, "zh")]
CLOSING = " </think> <answer>"
NO_WEIGHTS = Weights({}, np.zeros((0, 0)))

WORDS = st.lists(st.sampled_from(["3", "-7", "wait", "等等", "vs", "低", "<think>"]), max_size=12)


@given(WORDS, st.sampled_from([WORD, BYTE]), st.data())
def test_what_is_kept_is_the_text_before_the_place(words, tokenizer, data):
  text = " ".join(words)
  tokens = tokenizer.encode(text)
  starts = [0, *(len(" ".join(words[:n])) for n in range(1, len(words) + 1))]
  for place in starts:  # between words each token lies on one side
    kept = cut_tokens(tokenizer, tokens, place)
    assert kept == tokens[: len(kept)] and tokenizer.decode(kept).rstrip() == text[:place].rstrip()
  place = data.draw(st.integers(0, len(text)))
  kept = cut_tokens(tokenizer, tokens, place)
  assert text.startswith(tokenizer.decode(kept)) and len(tokenizer.decode(kept)) <= place


class Script:
  """An engine that goes on with what a test says, and remembers what it was asked."""

  def __init__(self, say):
    self.say, self.prompts, self.params = say, [], []

  def generate(self, weights, prompts, params, keys_B):
    self.prompts, self.params = [WORD.decode(p) for p in prompts], list(params)
    rows = [[*WORD.encode(self.say(p)), WORD.eos_id] for p in self.prompts]
    width = max(map(len, rows))
    tokens = np.array([row + [0] * (width - len(row)) for row in rows])
    lengths = np.array(list(map(len, rows)))
    return Samples(tokens, np.zeros(tokens.shape), lengths, np.ones(len(rows), bool), ())


TEXTS = [
  ["<think> 3 -7 -4 2 -2 vs 8 low wait 3 7 10 -2 8 vs 8 right </think> <answer> 3 7 -2 </answer>"],
  ["<think> 4 7 11 -2 9 vs 9 right </think> <answer> 4 7 -2 </answer>"],
]


def branches(say, texts=TEXTS, problems=PROBLEMS):
  made = evaluation(TASK, problems, texts, WORD)
  found = trace_each(TASK, made, answer_form(TASK, [made]))
  engine = Script(say)
  return engine, made, branch_each(engine, NO_WEIGHTS, WORD, TASK, made, found, CLOSING)


def test_every_arm_goes_on_from_its_place():
  engine, _, found = branches(lambda prompt: "3 -7 2 </answer>")
  assert [(b.arm, b.problem, b.behind_right) for b in found] == [
    ("strip", 0, False), ("unchanged", 0, False), ("insert", 0, True), ("insert", 1, True),
  ]  # fmt: skip
  said = [prompt.partition("? ")[2] for prompt in engine.prompts]
  assert said == [
    "<think> 3 -7 -4 2 -2 vs 8 low </think> <answer>",
    "<think> 3 -7 -4 2 -2 vs 8 low wait",
    "<think> 3 -7 -4 2 -2 vs 8 low wait 3 7 10 -2 8 vs 8 right wait",
    "<think> 4 7 11 -2 9 vs 9 right 等等",
  ]
  for branch, own, params in zip(found, said, engine.params, strict=True):
    assert branch.text == f"{own} 3 -7 2 </answer>"
    assert len(own.split()) + params.max_new == 64 and params.stop == (WORD.eos_id,)
  assert found[0].text[: found[0].cut].endswith("low")
  assert found[3].text[found[3].cut :].startswith(" 等等")


def test_effects_are_paired_with_what_was_said():
  """Five problems of four samples: stripping loses what the turn had found."""
  problems = [countdown_problem((d, 7, 2), d + 5, "en") for d in range(3, 8)]
  text = "<think> {0} -7 0 vs 8 low wait {0} 7 -2 vs 8 </think> <answer> {0} 7 -2 </answer>"
  guess = "<think> </think> <answer> {0} 7 2 </answer>"
  texts = [[text.format(d), text.format(d), guess.format(d), guess.format(d)] for d in range(3, 8)]

  def say(prompt):
    if prompt.endswith("<answer>"):
      return "1 1 1 </answer>"
    first = prompt.split()[3]
    return f"</think> <answer> {first} 7 -2 </answer>"

  _, made, found = branches(say, texts, problems)
  figures = {f["metric"]: f for f in effects("r1", made, found)}
  assert figures["strip: pass@1 as said"]["value"] == 1
  assert figures["strip: pass@1"]["value"] == 0
  assert figures["strip: pass@1 over as said"]["value"] == -1
  assert figures["strip: pass@1 over as said"]["samples"] == 10, "guesses have no turn"
  assert figures["unchanged: pass@1 over as said"]["value"] == 0
  assert figures["insert: truncated"]["value"] == 0
  assert "strip behind a wrong answer: pass@1" in figures
  assert "strip behind a right answer: pass@1" not in figures, "there is none"


def test_what_opens_an_answer_is_what_the_model_writes_most():
  made = evaluation(TASK, PROBLEMS, TEXTS)
  assert closing_of(made) == CLOSING
  other = ("a </think>\n\n<answer>3", "b </think>\n\n<answer> 4", "c</think> 5", "no tags")
  assert closing_of(dataclasses.replace(made, texts=(other,))) == " </think>\n\n<answer>"
  assert closing_of(dataclasses.replace(made, texts=(("\\boxed{3}",),))) == BOX


@pytest.fixture(scope="module")
def sampled():
  """A random model, which says anything, and what it said greedily."""
  config = dataclasses.replace(preset("v3_mini"), layers=2, d_model=32, mtp_depth=0)
  model = Transformer(config)
  weights = jax.jit(lambda key: init_weights(model, key))(jax.random.key(0))
  engine = SlotEngine(model, slots=8)
  protocol = Protocol("mini", problems=6, samples=1, temperature=0.0, max_new=24)
  task = load_task("mini")
  return engine, weights, task, evaluate(engine, weights, WORD, task, protocol)


def test_where_nothing_is_changed_the_continuation_is_the_identical_one(sampled):
  engine, weights, task, made = sampled
  asked = [ask(WORD, problem.prompt, "plain") for problem in made.problems]
  splices = [
    Splice("unchanged", p, 0, 0, True, row[0][:kept])
    for p, row in enumerate(made.tokens)
    for kept in (0, 1, 5, len(row[0]) - 1)
  ]
  found = go_on(engine, weights, WORD, task, made, asked, splices)
  assert [b.text for b in found] == [made.texts[s.problem][0] for s in splices]
  assert [b.correct for b in found] == [made.correct_PJ[s.problem, 0] for s in splices]
  assert [b.truncated for b in found] == [bool(made.truncated_PJ[s.problem, 0]) for s in splices]
  assert len({b.text for b in found}) > 1


def test_a_study_of_any_model_is_whole(sampled):
  engine, weights, task, made = sampled
  subject = study("x", engine, weights, WORD, task, made, "{}")
  assert len(list(subject.records())) == 6
  assert {f["metric"] for f in subject.figures()} >= {"reflection_per_1000", "length", "pass@1"}
  for figure in subject.over(subject):
    assert (figure["value"], figure["ci95"]) == (0, [0, 0])
  assert study("x", None, None, WORD, task, made, "{}", branches=False).branches == ()
