"""Each family goes through three iterations of GRPO and comes out as transformers reads it."""

import json

import jax
import numpy as np
import pytest

import deepseek_jax as ds
from configs import grpo_tiny
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.rl.grpo_job import grpo_job, run_grpo
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.start import load_start
from tests.parity import published
from tests.parity.families import (
  CASES,
  assert_equal_logits,
  random_model,
  random_tokens,
  their_model,
  torch_logits,
)

STEPS = 3
# Of transformers' checkpoints: the case, and whether it is published, in FP8 blocks or bfloat16.
FAMILIES = {
  "v3_fp8": ("v3_yarn_mscale", "fp8"),
  "v3_bfloat16": ("v3", "bfloat16"),
  "v2": ("v2_groups", None),
  "v2_lite": ("v2_lite", None),
  "moonlight": ("moonlight", None),
  "kimi_k2": ("v3", None),  # V3's tensors by another name
  "qwen2": ("qwen2", None),
  "qwen3": ("qwen3", None),
  "llama": ("llama3", None),
}
EVERYDAY = ("v3_fp8", "llama", "qwen3")


def make_directory(family, folder):
  """The checkpoint, with a tokenizer that the mini tasks can be told in."""
  case, form = FAMILIES[family]
  kind, fields = CASES[case]
  tokenizer = load_tokenizer("word")
  random_model(kind, fields | {"vocab_size": tokenizer.vocab_size + 3}, 41).save_pretrained(folder)
  if form is not None:
    published.publish(folder, fp8=form == "fp8")
  tokenizer.save(folder)
  if family == "kimi_k2":
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": family}))


@pytest.mark.parametrize(
  "family",
  [f if f in EVERYDAY else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES],
)
def test_three_steps_and_out_again(family, tmp_path):
  source, workdir, out = (tmp_path / name for name in ("source", "workdir", "out"))
  make_directory(family, source)
  config = grpo_tiny.get_config()
  config.update(
    {"init": str(source), "tokenizer": str(source), "task": "tests.positive_task:Positive"}
  )
  config.train.update({"steps": STEPS, "checkpoint_every": STEPS})
  run_grpo(grpo_job(config.to_dict()), workdir)
  records = read_metrics(workdir / "metrics.jsonl")
  assert len(records) == STEPS and sum(record["updates"] for record in records) > 0

  model = ds.load(workdir)
  changed = [
    not np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(model.params), jax.tree.leaves(load_start(source)[1].params), strict=True
    )
  ]
  assert np.mean(changed) > 0.5
  model.save(out)
  kind = CASES[FAMILIES[family][0]][0]
  tokens_BT = random_tokens(model.config.vocab, 41)
  assert_equal_logits(model.logits(tokens_BT), torch_logits(their_model(kind, out), tokens_BT))
  if FAMILIES[family][1] is not None:  # and as it was published, MTP module and all
    model.save(tmp_path / "published", dtype=FAMILIES[family][1])
    again, before = (published.tensors(folder) for folder in (tmp_path / "published", source))
    assert {n: (a.shape, a.dtype) for n, a in again.items()} == {
      n: (a.shape, a.dtype) for n, a in before.items()
    }
