"""Speculative decoding: the tokens of plain decoding, in fewer passes."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from deepseek_jax.config import ConfigError
from deepseek_jax.decode.engine import SamplingParams, SlotEngine
from deepseek_jax.model.transformer import Transformer, logits

GREEDY = SamplingParams(max_new=24, temperature=0.0, stop=(3,))
HOT = SamplingParams(max_new=24, temperature=1.0, top_p=0.9, stop=(3,))


@pytest.mark.parametrize("drafts", [1, 3])
@pytest.mark.parametrize("params", [GREEDY, HOT], ids=["greedy", "sampled"])
def test_tokens_are_those_of_plain_decoding(params, drafts, decoding_mini, draw, random_prompts):
  """Rows come and go, and the cache has holes where guesses were wrong."""
  model, weights = decoding_mini("v3")
  prompts = random_prompts(6, 1, 16)
  plain = draw(SlotEngine(model, slots=2, steps=5), weights, prompts, params)
  ahead = draw(SlotEngine(model, slots=2, steps=5, drafts=drafts), weights, prompts, params)
  np.testing.assert_array_equal(ahead.tokens_BT, plain.tokens_BT)
  np.testing.assert_array_equal(ahead.lengths_B, plain.lengths_B)
  np.testing.assert_array_equal(ahead.stopped_B, plain.stopped_B)
  np.testing.assert_allclose(ahead.logprobs_BT, plain.logprobs_BT, atol=1e-4)
  for mine, theirs in zip(ahead.experts, plain.experts):
    np.testing.assert_array_equal(mine, theirs)
  assert plain.passes == plain.lengths_B.sum() - len(prompts)  # the first comes with the prompt
  assert ahead.passes <= plain.passes


def test_right_guesses_save_passes(decoding_mini, draw, random_prompts):
  """A model whose layers and merge do nothing predicts the token again, and so does its module."""
  model, weights = decoding_mini("v3")
  names = ("out_HUD", "down_FD", "down_EFD")

  def still(tree, embed_VD):
    if not isinstance(tree, dict):
      return tree
    quiet = {k: still(v, embed_VD) if k not in names else 0 * v for k, v in tree.items()}
    if "merge_WD" in quiet:
      D = embed_VD.shape[1]
      quiet["merge_WD"] = np.concatenate([np.eye(D), np.zeros((D, D))]).astype(np.float32)
    return quiet

  embed_VD = np.linalg.qr(np.random.default_rng(0).normal(size=(37, 32)).T)[0].T
  embed_VD = np.concatenate([embed_VD, np.random.default_rng(1).normal(size=(5, 32))])[:37]
  embed_VD = (embed_VD / np.linalg.norm(embed_VD, axis=1, keepdims=True)).astype(np.float32)
  params = still(weights.params, embed_VD) | {"embed_VD": embed_VD, "head_DV": embed_VD.T}
  weights = dataclasses.replace(weights, params=params)
  greedy = dataclasses.replace(GREEDY, stop=(), max_new=21)
  prompts = random_prompts(1, 5, 5)
  for drafts, passes in ((1, 10), (3, 5)):
    samples = draw(SlotEngine(model, slots=1, drafts=drafts), weights, prompts, greedy)
    assert samples.completion(0) == [prompts[0][-1]] * 21
    assert samples.passes == passes


def test_samples_have_the_models_distribution(decoding_mini, draw):
  """The second token, which is an accepted or a refused guess, over three thousand samples."""
  model, weights = decoding_mini("v3")
  count = 3000
  params = SamplingParams(max_new=2, temperature=1.5)
  engine = SlotEngine(model, slots=512, drafts=1)
  samples = draw(engine, weights, [[5, 9, 2]] * count, params)
  first = np.bincount(samples.tokens_BT[:, 0], minlength=37).argmax()
  of_first = samples.tokens_BT[:, 0] == first
  seen = np.bincount(samples.tokens_BT[of_first, 1], minlength=37)
  logits_BTV = logits(model, weights, np.array([[5, 9, 2, first]]))
  logits_V = np.asarray(logits_BTV[0, -1], np.float64) / 1.5
  probs = np.exp(logits_V - logits_V.max())
  expected = probs / probs.sum() * of_first.sum()
  rare = expected < 5  # pooled, as the test wants counts that are not too small
  seen = np.append(seen[~rare], seen[rare].sum())
  expected = np.append(expected[~rare], expected[rare].sum())
  assert stats.chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_a_model_without_module_cannot_draft(decoding_mini):
  model, _ = decoding_mini("v3")
  bare = Transformer(dataclasses.replace(model.config, mtp_depth=0))
  with pytest.raises(ConfigError, match="engine.drafts is 1"):
    SlotEngine(bare, drafts=1)
