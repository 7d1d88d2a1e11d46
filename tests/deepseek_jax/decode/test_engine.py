"""The engine: cached equals uncached, samples depend on their key alone, requests come and go."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.decode import rows as rows_of
from deepseek_jax.decode import step
from deepseek_jax.decode.engine import SamplingParams, SlotEngine
from deepseek_jax.decode.sampling import sample_keys
from deepseek_jax.model.transformer import forward, head_DV
from deepseek_jax.sharding import MeshConfig, make_mesh
from deepseek_jax.types import Weights
from tests.deepseek_jax.decode import mini
from tests.deepseek_jax.decode.mini import random_weights

CONFIGS = {
  kind: dataclasses.replace(config, mtp_depth=0, max_context=64)
  for kind, config in mini.CONFIGS.items()
}
V3, QWEN = CONFIGS["v3"], CONFIGS["qwen"]
ENGINE = functools.partial(SlotEngine, slots=4, steps=5)
PARAMS = SamplingParams(max_new=12)
PROMPTS = [[1 + (5 * i + j) % 36 for j in range(1 + 3 * i % 7)] for i in range(11)]


def keys(count: int, seed: int = 7) -> jax.Array:
  return sample_keys(seed, 0, np.arange(count), np.zeros(count, np.int32))


@pytest.fixture(scope="module", params=CONFIGS)
def sampled(request):
  """Model, weights, an engine and its samples of PROMPTS at temperature 1."""
  model, weights = random_weights(CONFIGS[request.param])
  engine = ENGINE(model)
  return model, weights, engine, engine.generate(weights, PROMPTS, PARAMS, keys(len(PROMPTS)))


def rows(samples):
  """Prompt + completion of every sample, padded on the right, with positions and segments."""
  sequences = [p + samples.completion(i) for i, p in enumerate(PROMPTS)]
  longest = max(map(len, PROMPTS)) + PARAMS.max_new
  tokens = np.array([s + [0] * (longest - len(s)) for s in sequences])
  segments = np.array([[1] * len(s) + [0] * (longest - len(s)) for s in sequences])
  positions = np.broadcast_to(np.arange(longest), tokens.shape)
  return tokens, positions, segments


@functools.partial(jax.jit, static_argnums=0)
def uncached(model, weights, tokens_BT, positions_BT, segments_BT):
  """Routing and float32 logits of whole rows, as training computes them."""
  out = forward(model, weights, tokens_BT, positions_BT, segments_BT)
  return out.routing, (out.hidden_BTD @ head_DV(model, weights)).astype(jnp.float32)


def test_experts_that_no_layer_has_are_no_obstacle():
  """As in a checkpoint whose leading dense layers are all there are."""
  moe = dataclasses.replace(V3.moe, dense_layers=V3.layers)
  model, weights = random_weights(dataclasses.replace(V3, moe=moe))
  samples = ENGINE(model).generate(weights, PROMPTS[:2], PARAMS, keys(2))
  assert samples.lengths_B.tolist() == [12, 12]
  assert samples.experts[0].size == 0


def test_logprobs_and_experts_equal_an_uncached_pass(sampled):
  model, weights, _, samples = sampled
  tokens, positions, segments = rows(samples)
  routing, logits_BTV = uncached(model, weights, tokens, positions, segments)
  logprobs = np.asarray(jax.nn.log_softmax(logits_BTV))
  compared = differing = 0
  for i, prompt in enumerate(PROMPTS):
    length = len(prompt) + samples.lengths_B[i]
    met, again = samples.experts[i], np.asarray(routing.experts_LBTA[:, i, :length])
    assert met.shape == again.shape
    assert (met[:, -1] == -1).all()
    agree = (met == again).all(axis=(0, 2))[len(prompt) - 1 : -1]
    own = logprobs[i, np.arange(len(prompt) - 1, length - 1), tokens[i, len(prompt) : length]]
    gap = np.abs(own - samples.logprobs_BT[i, : samples.lengths_B[i]])
    assert gap[agree].max(initial=0) < 1e-4
    compared += agree.size
    differing += (~agree).sum()
  assert compared > 100
  assert differing / compared < 1e-3


def test_the_bias_of_the_router_reaches_the_sampler(sampled):
  model, weights, engine, samples = sampled
  if model.config.moe is None:
    pytest.skip("no router")
  unbiased = Weights(weights.params, jnp.zeros_like(weights.router_bias_LE))
  other = engine.generate(unbiased, PROMPTS, PARAMS, keys(len(PROMPTS)))
  assert any((a[:, 0] != b[:, 0]).any() for a, b in zip(samples.experts, other.experts))


def test_a_sample_depends_on_its_prompt_and_key_alone(sampled):
  model, weights, _, samples = sampled
  order = np.random.default_rng(0).permutation(len(PROMPTS))[:7]
  engine = SlotEngine(model, slots=8, steps=3)
  again = engine.generate(weights, [PROMPTS[i] for i in order], PARAMS, keys(len(PROMPTS))[order])
  np.testing.assert_array_equal(again.tokens_BT, samples.tokens_BT[order])
  np.testing.assert_allclose(again.logprobs_BT, samples.logprobs_BT[order], atol=1e-4)


def test_the_longest_limits_enter_first_and_samples_stay_as_they_are(sampled):
  _, weights, engine, samples = sampled
  limits = [3, 12, 2, 9, 2, 2, 11, 4, 10, 2, 3]
  each = [dataclasses.replace(PARAMS, max_new=n) for n in limits]
  first: list[int] = []
  told: dict[int, list[int]] = {}
  for event in engine.stream(weights, PROMPTS, each, keys(len(PROMPTS))):
    first += [event.request] if event.request not in told else []
    told.setdefault(event.request, []).extend(event.tokens)
  assert sorted(first[:4]) == [1, 3, 6, 8]
  assert [limits[i] for i in first[4:]] == sorted((limits[i] for i in first[4:]), reverse=True)
  for i, limit in enumerate(limits):
    assert told[i] == samples.completion(i)[:limit]


def test_greedy_follows_the_argmax_of_an_uncached_pass(sampled):
  model, weights, engine, _ = sampled
  greedy = dataclasses.replace(PARAMS, temperature=0.0)
  samples = engine.generate(weights, PROMPTS, greedy, keys(len(PROMPTS)))
  tokens, positions, segments = rows(samples)
  best = np.asarray(uncached(model, weights, tokens, positions, segments)[1]).argmax(-1)
  for i, prompt in enumerate(PROMPTS):
    assert best[i, len(prompt) - 1 : len(prompt) + 11].tolist() == samples.completion(i)


def test_a_stop_token_ends_its_sample_and_changes_nothing_before(sampled):
  _, weights, engine, free = sampled
  stops = (3, 17)
  stopping = dataclasses.replace(PARAMS, stop=stops)
  samples = engine.generate(weights, PROMPTS, stopping, keys(len(PROMPTS)))
  assert free.lengths_B.tolist() == [12] * len(PROMPTS) and not free.stopped_B.any()
  assert samples.stopped_B.any() and not samples.stopped_B.all()
  for i in range(len(PROMPTS)):
    hits = np.flatnonzero(np.isin(free.tokens_BT[i], stops))
    length = hits[0] + 1 if len(hits) else 12
    assert samples.lengths_B[i] == length
    assert samples.stopped_B[i] == bool(len(hits))
    assert samples.completion(i) == free.completion(i)[:length]
    assert samples.answer(i) == [t for t in samples.completion(i) if t not in stops]
    assert (samples.tokens_BT[i, length:] == 0).all()
    assert (samples.logprobs_BT[i, length:] == 0).all()
    assert samples.experts[i].shape[1] == len(PROMPTS[i]) + length


def test_few_programs_serve_requests_of_every_kind(sampled):
  """At most one per number of rows (4, 1), of prompts (1, 2, 4) and of slots (32, 64)."""
  _, weights, engine, _ = sampled
  programs = (step.decode, step.prefill, rows_of.insert)
  for program in programs:
    program.clear_cache()
  for shift in range(6):
    each = [
      SamplingParams(1 + 5 * i % 12, (0.0, 0.6, 1.0)[i % 3], 1 - 0.05 * (i % 2), i % 4, (i,))
      for i in range(shift, shift + len(PROMPTS))
    ]
    engine.generate(weights, PROMPTS[shift:] + PROMPTS[:shift], each, keys(len(PROMPTS), shift))
  most = (2 * 2, 3, 2 * 3 * 2)
  assert all(f._cache_size() <= bound for f, bound in zip(programs, most))


@pytest.mark.parametrize(
  "prompts, message",
  [
    ([], "no prompts"),
    ([[1], []], "Prompt 1 is empty"),
    ([[1] * 53], "exceed the model's context of 64"),
    ([[37]], "outside the model's vocabulary"),
  ],
)
def test_bad_prompts_are_refused(sampled, prompts, message):
  _, weights, engine, _ = sampled
  with pytest.raises(ConfigError, match=message):
    engine.generate(weights, prompts, PARAMS, keys(len(prompts)))


@pytest.mark.parametrize(
  "fields", [{"max_new": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_bad_params_are_refused(fields):
  with pytest.raises(ConfigError, match=next(iter(fields))):
    SamplingParams(**fields)


@pytest.mark.parametrize(
  "mesh", [MeshConfig(data=4), MeshConfig(data=2, expert=2), MeshConfig(expert=2, context=2)]
)
def test_rows_split_over_devices_give_the_same_samples(mesh):
  model, weights = random_weights(V3)
  params = dataclasses.replace(PARAMS, stop=(3, 17))
  wanted = ENGINE(model).generate(weights, PROMPTS, params, keys(len(PROMPTS)))
  split = ENGINE(model.clone(mesh=make_mesh(mesh, jax.devices()[:4])))
  samples = split.generate(weights, PROMPTS, params, keys(len(PROMPTS)))
  np.testing.assert_array_equal(samples.tokens_BT, wanted.tokens_BT)
  np.testing.assert_array_equal(samples.lengths_B, wanted.lengths_B)
  np.testing.assert_allclose(samples.logprobs_BT, wanted.logprobs_BT, atol=1e-4)


def test_prepared_weights_are_kept_while_the_weights_live():
  model, weights = random_weights(QWEN)
  engine = ENGINE(model)
  engine.generate(weights, [[1]], dataclasses.replace(PARAMS, max_new=1), keys(1))
  first = engine._prepared(weights)
  assert engine._prepared(weights) is first
  # A tied head is the embedding itself, not a copy of what may be a fifth of the model.
  assert first.params["head_DV"].outputs_first is first.params["embed_VD"]
  assert engine._prepared(dataclasses.replace(weights)) is not first  # and dies at once
  assert not engine._held


@pytest.mark.parametrize("drafts", [0, 1])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_give_no_numbers_are_an_error(decoding_mini, draw, drafts, temperature):
  model, weights = decoding_mini("v3")
  params = {**weights.params, "norm_D": weights.params["norm_D"].at[3].set(jnp.nan)}
  engine = SlotEngine(model, slots=4, drafts=drafts)
  with pytest.raises(ConfigError, match="after prompt 0 and 0 new tokens"):
    draw(engine, Weights(params, weights.router_bias_LE), [[1, 2]], SamplingParams(8, temperature))


def test_a_number_that_overflows_later_is_an_error_too(decoding_mini, draw):
  model, weights = decoding_mini("v3")
  engine = SlotEngine(model, slots=4)
  first = draw(engine, weights, [[1, 2]], SamplingParams(8, 0.0)).completion(0)
  second = next(token for token in first if token not in (1, 2))  # read once it was written
  embedding = next(name for name in weights.params if name.startswith("embed"))
  params = {**weights.params, embedding: weights.params[embedding].at[second, 0].set(jnp.inf)}
  with pytest.raises(ConfigError, match="no finite numbers after prompt 0 and [1-9] new"):
    draw(engine, Weights(params, weights.router_bias_LE), [[1, 2]], SamplingParams(8, 0.0))
