"""V3 as it is published, in FP8 blocks or bfloat16, MTP module and all: in and out unchanged."""

import numpy as np
import pytest

import deepseek_jax as ds
from deepseek_jax.ops.fp8 import FP8Blocks
from tests.parity import published
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

ODD = ("v3_latent_of_576_rows", "v3_direct_query_one_group_tied")


def publish(case, folder, fp8):
  kind, fields = CASES[case]
  random_model(kind, fields, seed=31).save_pretrained(folder)
  published.publish(folder, fp8)


def assert_same_tensors(a, b):
  """The same names, and of each the same type, shape and bytes."""
  held, found = published.tensors(a), published.tensors(b)
  assert sorted(held) == sorted(found)
  for name, array in held.items():
    other = found[name]
    assert (array.dtype, array.shape) == (other.dtype, other.shape), name
    assert array.tobytes() == other.tobytes(), name


@pytest.mark.parametrize("case", ODD)
def test_fp8_blocks(case, tmp_path):
  """The logits of transformers on the dequantised weights; back in blocks, byte for byte."""
  publish(case, tmp_path / "fp8", fp8=True)
  published.dequantized(tmp_path / "fp8", tmp_path / "plain")
  model = ds.load(tmp_path / "fp8")
  assert model.config.mtp_depth == 1
  assert isinstance(model.params["moe"]["ffn"]["gate_EDF"], FP8Blocks)  # held as published
  tokens_BT = random_tokens(model.config.vocab, 31)
  wanted = torch_logits(their_model("DeepseekV3", tmp_path / "plain"), tokens_BT)
  assert_equal_logits(model.logits(tokens_BT), wanted)
  model.save(tmp_path / "again", dtype="fp8")
  assert_same_tensors(tmp_path / "fp8", tmp_path / "again")
  model.save(tmp_path / "whole")
  whole = torch_logits(their_model("DeepseekV3", tmp_path / "whole"), tokens_BT)
  assert np.abs(whole - wanted).max() <= 1e-6


def test_fp8_blocks_say_the_same_greedy_tokens(tmp_path):
  publish(ODD[0], tmp_path / "fp8", fp8=True)
  published.dequantized(tmp_path / "fp8", tmp_path / "plain")
  theirs = their_model("DeepseekV3", tmp_path / "plain")
  ours = ds.load(tmp_path / "fp8").generate(PROMPTS, max_new=16)
  assert ours == greedy(theirs, PROMPTS, 16)


@pytest.mark.parametrize("case", ODD)
def test_bfloat16(case, tmp_path):
  publish(case, tmp_path / "bfloat16", fp8=False)
  model = ds.load(tmp_path / "bfloat16")
  assert model.config.mtp_depth == 1
  model.save(tmp_path / "again", dtype="bfloat16")
  assert_same_tensors(tmp_path / "bfloat16", tmp_path / "again")
