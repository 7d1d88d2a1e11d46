"""Held-out checkpoints of every family, as transformers writes them: in, spoken with, out again."""

import numpy as np
import pytest

import deepseek_jax as ds
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
SPOKEN = ("v3_yarn_mscale", "v2_groups", "v2_lite", "qwen2", "llama3")  # the others are slow
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
