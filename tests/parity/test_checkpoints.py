"""Held-out checkpoints of every family, as transformers writes them: in, spoken with, out again."""

import json

import numpy as np
import pytest

import deepseek_jax as ds
from deepseek_jax.config import ConfigError
from deepseek_jax.hub.tensor_file import read_header
from tests.parity.families import (
  CASES,
  PROMPTS,
  assert_equal_logits,
  greedy,
  random_model,
  random_tokens,
  their_model,
  torch_logits,
)

SEEDS = (11, 12, 13)
SPOKEN = (
  "v3_yarn_mscale",
  "v2_groups",
  "v2_lite",
  "qwen2",
  "qwen3",
  "llama3",
)  # the others are slow
NEW = 16


@pytest.mark.parametrize("case", CASES)
def test_in_and_out_are_the_same_model(case, tmp_path):
  kind, fields = CASES[case]
  for seed in SEEDS:
    theirs = random_model(kind, fields, seed)
    source, out = tmp_path / f"source_{seed}", tmp_path / f"out_{seed}"
    theirs.save_pretrained(source)
    model = ds.load(source)
    assert model.tokenizer is None and model.config.mtp_depth == 0
    tokens_BT = random_tokens(model.config.vocab, seed)
    wanted = torch_logits(theirs, tokens_BT)
    assert_equal_logits(model.logits(tokens_BT), wanted)
    model.save(out)
    assert np.abs(torch_logits(their_model(kind, out), tokens_BT) - wanted).max() <= 1e-6


@pytest.mark.parametrize(
  "case", [c if c in SPOKEN else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_greedy_tokens_are_theirs(case, tmp_path):
  kind, fields = CASES[case]
  theirs = random_model(kind, fields, seed=21)
  theirs.save_pretrained(tmp_path)
  ours = ds.load(tmp_path).generate(PROMPTS, max_new=NEW)
  assert ours == greedy(theirs, PROMPTS, NEW)
  assert len({token for answer in ours for token in answer}) > 3


def test_kimi_is_v3_by_another_name(tmp_path):
  theirs = random_model(*CASES["v3"], seed=31)
  theirs.save_pretrained(tmp_path / "kimi")
  config = json.loads((tmp_path / "kimi" / "config.json").read_text())
  config |= {"model_type": "kimi_k2", "architectures": ["DeepseekV3ForCausalLM"]}
  (tmp_path / "kimi" / "config.json").write_text(json.dumps(config))
  model = ds.load(tmp_path / "kimi")
  tokens_BT = random_tokens(model.config.vocab, 31)
  wanted = torch_logits(theirs, tokens_BT)
  assert_equal_logits(model.logits(tokens_BT), wanted)
  model.save(tmp_path / "out")
  again = torch_logits(their_model("DeepseekV3", tmp_path / "out"), tokens_BT)
  assert np.abs(again - wanted).max() <= 1e-6


@pytest.mark.parametrize("case", ["v3", "v2_groups", "moonlight"])
def test_experts_in_two_tensors_a_layer_are_read(case, tmp_path):
  """As transformers writes them with save_original_format=False."""
  kind, fields = CASES[case]
  theirs = random_model(kind, fields, seed=32)
  theirs.save_pretrained(tmp_path, save_original_format=False)
  names = read_header(tmp_path / "model.safetensors")
  assert any(name.endswith("mlp.experts.gate_up_proj") for name in names)
  model = ds.load(tmp_path)
  tokens_BT = random_tokens(model.config.vocab, 32)
  assert_equal_logits(model.logits(tokens_BT), torch_logits(theirs, tokens_BT))


def test_a_module_that_is_not_counted_is_left_out_and_told(tmp_path, caplog):
  from safetensors.numpy import load_file, save_file

  file = tmp_path / "model.safetensors"
  random_model(*CASES["v3"], seed=33).save_pretrained(tmp_path)
  config = json.loads((tmp_path / "config.json").read_text())
  config["num_nextn_predict_layers"] = 0
  (tmp_path / "config.json").write_text(json.dumps(config))
  plain, tensors = ds.load(tmp_path), load_file(file)
  last, beyond = (f"model.layers.{plain.config.layers - 1 + k}." for k in range(2))
  more = {n.replace(last, beyond): x for n, x in tensors.items() if n.startswith(last)}
  module = {f"{beyond}eh_proj.weight": np.zeros((4, 8), np.float32)}
  save_file(tensors | more | module, file, {"format": "pt"})
  model = ds.load(tmp_path)
  assert "the MTP module in layer 3 is left out" in caplog.text
  tokens_BT = random_tokens(model.config.vocab, 33)
  assert np.array_equal(model.logits(tokens_BT), plain.logits(tokens_BT))
  save_file(tensors | more, file, {"format": "pt"})  # without what makes it one: a layer too many
  with pytest.raises(ConfigError, match="model.layers.3.*does not account for"):
    ds.load(tmp_path)
