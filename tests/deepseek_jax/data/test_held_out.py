"""No held-out problem in what is trained on: by parsing the emitted tokens, not the generator."""

import itertools
import re

import numpy as np
import pytest

from deepseek_jax.data.config import DataConfig
from deepseek_jax.data.document import Document, make_sample
from deepseek_jax.data.pipeline import open_batches
from deepseek_jax.data.samples import SampleBatches
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.tasks.chain_sum import chain_sum_problem
from deepseek_jax.tasks.countdown import countdown_problem
from deepseek_jax.tasks.mixture import mini_mixture
from deepseek_jax.tasks.solutions import write_solution
from deepseek_jax.tasks.task import stream

TASK = mini_mixture()
PROMPT = re.compile(
  r"(?:make|凑) (?P<target>-?\d+) (?:from|用) (?P<digits>[1-9](?: [1-9])+) \?"
  r"|(?:sum|求和) (?P<terms>-?[1-9](?: -?[1-9])+) \?"
)
ANSWER = re.compile(r"<answer> (-?\d+(?: -?\d+)+) </answer>")
BATCHES = 40


def key_and_digits(match):
  """The canonical key of a prompt found in a text, and its operands without signs."""
  if match["digits"]:
    digits = tuple(map(int, match["digits"].split()))
    return countdown_problem(digits, int(match["target"]), "en").key, digits
  terms = tuple(map(int, match["terms"].split()))
  return chain_sum_problem(terms, "en").key, tuple(map(abs, terms))


@pytest.fixture(scope="module")
def held_out():
  """Keys and operands of thousands of held-out problems."""
  problems = [TASK.sample("heldout", i, seed) for seed in (0, 1) for i in range(3000)]
  prompts = [PROMPT.fullmatch(problem.prompt) for problem in problems]
  found = [key_and_digits(match) for match in prompts]
  assert [key for key, _ in found] == [problem.key for problem in problems]
  return {key for key, _ in found}, {digits for _, digits in found}


def assert_clean(text, held_out, at_least):
  keys, operands = held_out
  found = [key_and_digits(match) for match in PROMPT.finditer(text)]
  assert len(found) >= at_least
  assert not {key for key, _ in found} & keys
  assert not {digits for _, digits in found} & operands
  answers = [tuple(abs(int(n)) for n in m[1].split()) for m in ANSWER.finditer(text)]
  assert not set(answers) & operands
  return found


@pytest.mark.parametrize("packing", ["v3", "documents"])
@pytest.mark.parametrize("name", ["word", "byte"])
def test_pre_training_text_holds_no_held_out_problem(name, packing, held_out):
  tokenizer = load_tokenizer(name)
  length = 128 if name == "word" else 512
  batches = open_batches(DataConfig(tokenizer=name, packing=packing, length=length))
  tokens = np.concatenate([b.tokens_BT.ravel() for b in itertools.islice(batches, BATCHES)])
  batches.close()
  found = assert_clean(tokenizer.decode(tokens), held_out, at_least=1000)
  # The search would find one: every document's prompt was found.
  documents = (tokens == tokenizer.eos_id).sum()
  assert abs(len(found) - documents) <= 1


def test_fine_tuning_data_hold_no_held_out_problem(held_out):
  tokenizer = load_tokenizer("word")
  samples = []
  for i in range(1500):
    problem = TASK.sample("train", i, 11)
    text = " " + write_solution(problem, stream(11, i))
    samples.append(make_sample(tokenizer, Document(text, problem.prompt)))
  batches = SampleBatches(samples, 12, 128, tokenizer.pad_id, seed=0)
  texts = [tokenizer.decode(batches[i].tokens_BT.ravel()) for i in range(len(batches))]
  found = assert_clean(" ".join(texts), held_out, at_least=1500)
  assert len(found) == 1500


def test_prompts_of_reinforcement_hold_no_held_out_problem(held_out):
  prompts = " ".join(TASK.sample("train", i, seed).prompt for seed in (0, 5) for i in range(2000))
  assert_clean(prompts, held_out, at_least=4000)


def test_the_search_itself_finds_held_out_problems(held_out):
  text = " ".join(TASK.sample("heldout", i, 0).prompt for i in range(50))
  with pytest.raises(AssertionError):
    assert_clean(text, held_out, at_least=50)
