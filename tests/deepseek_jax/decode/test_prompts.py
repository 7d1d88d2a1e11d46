"""Prefill: buckets, pieces, groups and common beginnings change nothing but the work."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.decode import prompts as prompts_of
from deepseek_jax.decode import step
from deepseek_jax.decode.engine import SamplingParams, SlotEngine
from deepseek_jax.decode.prompts import bucket
from deepseek_jax.model.transformer import Transformer, init_weights

PARAMS = SamplingParams(max_new=6, temperature=0.0)


@pytest.fixture
def computed(monkeypatch):
  """The prompt tokens that each call of `prefill` computed, padding not counted."""
  counts = []

  def counted(*args):
    counts.append(int(np.asarray(args[-1]).sum()))
    return step.prefill(*args)

  monkeypatch.setattr(prompts_of, "prefill", counted)
  return counts


def same(a, b):
  np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)
  np.testing.assert_allclose(a.logprobs_BT, b.logprobs_BT, atol=1e-4)
  for mine, theirs in zip(a.experts, b.experts):
    np.testing.assert_array_equal(mine, theirs)


@hypothesis.given(st.integers(1, 10**6), st.sampled_from([1, 16, 32]))
def test_buckets_grow_by_doubling(count, grain):
  size = bucket(count, grain)
  assert size >= count and size < 2 * count + grain
  assert (size // grain).bit_count() == 1 and size % grain == 0
  assert bucket(size, grain) == size


@pytest.mark.parametrize("kind", ["v3", "qwen"])
def test_pieces_equal_the_whole(kind, decoding_mini, draw, random_prompts, computed):
  model, weights = decoding_mini(kind)
  prompts = random_prompts(3, 97, 120)
  whole = draw(SlotEngine(model, slots=4), weights, prompts, PARAMS)
  assert len(computed) == 1
  pieces = draw(SlotEngine(model, slots=4, piece=32), weights, prompts, PARAMS)
  assert len(computed) == 1 + 4
  assert computed[0] == sum(computed[1:]) == sum(map(len, prompts))
  same(whole, pieces)


def test_a_group_computes_its_prompt_once(decoding_mini, draw, random_prompts, computed):
  model, weights = decoding_mini("v3")
  prompts = random_prompts(2, 20, 20)
  hot = dataclasses.replace(PARAMS, temperature=1.0)
  samples = draw(SlotEngine(model, slots=8), weights, [p for p in prompts for _ in range(4)], hot)
  assert computed == [40]
  assert len({tuple(samples.completion(i)) for i in range(8)}) > 4  # of different keys


def test_a_common_beginning_is_computed_once(decoding_mini, draw, random_prompts, computed):
  model, weights = decoding_mini("v3")
  (system,), ends = random_prompts(1, 90, 90, seed=3), random_prompts(5, 2, 9)
  prompts = [system + end for end in ends]
  shared = draw(SlotEngine(model, slots=8), weights, prompts, PARAMS)
  common = 64  # of 90, in whole parts
  assert computed[0] == common
  assert sum(computed) == sum(map(len, prompts)) - 4 * common
  alone = [
    draw(SlotEngine(model, slots=1), weights, [prompt], PARAMS).completion(0) for prompt in prompts
  ]
  assert [shared.completion(i) for i in range(5)] == alone
  assert shared.experts[0].shape[1] == len(prompts[0]) + 6


def test_memory_of_long_prompts_does_not_grow_with_the_square(decoding_mini):
  """Compiled, not run: a piece's temporaries at 4K, 8K and 16K slots."""
  config = dataclasses.replace(decoding_mini("v3")[0].config, max_context=16384)
  model = Transformer(config)
  weights = jax.eval_shape(lambda: init_weights(model, jax.random.key(0)))

  def temporaries(slots):
    cache = jax.eval_shape(lambda: step.empty_cache(model, 1, slots))
    piece = jax.ShapeDtypeStruct((1, 512), jnp.int32)
    real = jax.ShapeDtypeStruct((1, 512), bool)
    lowered = step.prefill.lower(model, weights, cache, piece, piece, real)
    return lowered.compile().memory_analysis().temp_size_in_bytes

  small, middle, large = map(temporaries, (4096, 8192, 16384))
  assert large - middle < 2.2 * (middle - small)  # a straight line, not a parabola
  assert large < 2.2 * middle
