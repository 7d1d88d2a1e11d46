"""A random small GGUF file says here what it says in transformers."""

import dataclasses

import pytest

import deepseek_jax as ds
from deepseek_jax.config import GQAConfig, ModelConfig, RopeConfig
from tests.parity.families import (
  assert_equal_logits,
  gguf_by_transformers,
  random_model,
  random_tokens,
  torch_logits,
  transformers,
)

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")
pytest.importorskip("accelerate", reason="transformers needs accelerate to read GGUF")
from tests import gguf_files  # noqa: E402

VOCAB = len(gguf_files.vocabulary()[0])
KINDS = gguf.GGMLQuantizationType


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
  model, theirs = ds.load(tmp_path / "m.gguf"), gguf_by_transformers(tmp_path / "m.gguf")
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
