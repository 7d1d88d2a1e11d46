"""Which operands of the whole model are rounded, and which never are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.decode.weights import prepare
from deepseek_jax.model.cache import init_cache
from deepseek_jax.model.transformer import forward, init_weights, mtp_hidden
from deepseek_jax.ops.oriented import Oriented
from deepseek_jax.ops.precision import ROUNDINGS
from tests.traced import named

B, T = 2, 5
TOKENS = np.arange(B * T, dtype=np.int32).reshape(B, T)
SPAN = (np.tile(np.arange(T, dtype=np.int32), (B, 1)), np.ones((B, T), np.int32))

# Of the "v3" mini: D 24, H 2, Q 12, C 9, K 6, R 4, U 5; feed-forwards of 20, and of 7 in 8 experts.
ATTENTION = {(24, 12), (12, 12), (12, 8), (24, 9), (24, 4), (9, 12), (9, 10), (10, 24)}
UP_PROJECTIONS = {(9, 12), (9, 10)}
FEED_FORWARDS = {(24, 20), (20, 24), (24, 7), (7, 24), (8, 24, 7), (8, 7, 24)}
LINEAR = {
  "v3": ATTENTION | FEED_FORWARDS,
  "dense": {(24, 24), (24, 12), (24, 20), (20, 24)},  # q and out, k and v, feed-forward
}
# Embedding, head and router are [40, 24], [24, 40] and [24, 8], the MTP module's joint [48, 24].
WIDTHS = {  # last axes of activations that enter a product: x, latents, heads' output, h
  "v3": {24, 12, 9, 10, 20, 7},
  "dense": {24, 20},
}


@pytest.fixture
def seen(monkeypatch):
  """The shapes that "fp8" rounds while a function is traced, by what they are."""
  shapes: dict[str, set] = {"rows": set(), "weights": set(), "gradient_rows": set(), "keep": set()}

  def watch(name):
    given = getattr(ROUNDINGS["fp8"], name)

    def rounding(x):
      shapes[name].add(x.shape)
      return given(x)

    return rounding

  watched = ROUNDINGS["fp8"]._replace(**{name: watch(name) for name in shapes})
  monkeypatch.setitem(ROUNDINGS, "fp8", watched)
  return shapes


def loss(model, weights):
  """A number that every parameter has a part in."""
  hidden_BTD = forward(model, weights, TOKENS, *SPAN).hidden_BTD
  further = mtp_hidden(model, weights, hidden_BTD, TOKENS, *SPAN)[0]
  head = weights.params.get("head_DV", weights.params["embed_VD"].T)
  return jnp.sum((hidden_BTD @ head) ** 2) + jnp.sum((further @ head) ** 2)


def loss_of(model, params, weights):
  return loss(model, weights.replace(params=params))


def gradient(model, weights):
  return jax.grad(functools.partial(loss_of, model))(weights.params, weights)


@pytest.mark.parametrize("kind", LINEAR)
def test_linear_layers_are_rounded_and_nothing_else(kind, mini, seen):
  model, weights = mini(kind, precision="fp8", dispatch="capacity")
  jax.eval_shape(lambda w: gradient(model, w), weights)
  assert seen["weights"] == LINEAR[kind]
  assert {shape[-1] for shape in seen["rows"]} == WIDTHS[kind]
  # Gradients of outputs: what the matrices' last axes are.
  assert {shape[-1] for shape in seen["gradient_rows"]} == {s[-1] for s in LINEAR[kind]}


def test_absorbed_up_projections_are_not_rounded(mini, seen):
  model, weights = mini("v3", precision="fp8", dispatch="capacity")
  cache = init_cache(model.config, B, 8)
  decode = jax.tree_util.Partial(forward, model, absorbed=True)
  jax.eval_shape(lambda w, c: decode(w, TOKENS, *SPAN, cache=c), weights, cache)
  assert seen["weights"] == LINEAR["v3"] - UP_PROJECTIONS


def test_plain_rounds_nothing(mini):
  model, weights = mini("v3", dispatch="capacity")
  rounding = ("reduce_precision", "f8_e4m3", "round[")
  plain = str(jax.make_jaxpr(lambda w: gradient(model, w))(weights))
  assert not any(word in plain for word in rounding)
  model, weights = mini("v3", dispatch="capacity", precision="fp8")
  fp8 = str(jax.make_jaxpr(lambda w: gradient(model, w))(weights))
  assert all(word in fp8 for word in rounding)


def test_router_and_norms_see_what_they_see_in_float32(mini, run):
  """The first expert layer's affinities: its input differs by rounding, its product does not."""
  kind = "experts"
  model, weights = mini(kind, precision="fp8")
  silent = jax.tree_util.tree_map_with_path(
    lambda path, x: np.zeros_like(x) if path[-1].key == "out_HKD" else x, weights.params
  )  # attention puts out nothing, so that the first router meets the embedding, normed
  weights = weights.replace(params=silent)
  plain = run(mini(kind).model, weights, TOKENS).routing
  fp8 = run(model, weights, TOKENS).routing
  np.testing.assert_array_equal(plain.balance_L[0], fp8.balance_L[0])
  assert plain.balance_L[1] != fp8.balance_L[1]


@pytest.mark.parametrize("precision", ["bfloat16", "fp8", "fp8_gradient_blocks"])
def test_outputs_are_near_and_not_equal(precision, mini, run):
  plain = run(*mini("dense"), TOKENS).hidden_BTD
  found = run(*mini("dense", precision=precision), TOKENS).hidden_BTD
  off = np.linalg.norm(found - plain) / np.linalg.norm(plain)
  assert 1e-4 < off < (0.03 if precision == "bfloat16" else 0.3)


def test_decoding_leaves_matrices_as_trained_where_tiles_are_wanted(mini):
  def oriented(precision):
    model, weights = mini("v3", precision=precision)
    moe = dataclasses.replace(model.config.moe, expert_ff=128)
    model = model.clone(config=dataclasses.replace(model.config, d_model=64, moe=moe))
    stacks = {
      "gate_EDF": np.ones((1, 8, 64, 128)),
      "up_EDF": np.ones((1, 8, 64, 128)),
      "down_EFD": np.ones((1, 8, 128, 64)),
    }
    params = {"moe": {"ffn": stacks}, "dense": {"norm_D": np.ones((2, 64))}}
    prepared = prepare(model, weights.replace(params=params))
    leaves = jax.tree.leaves(prepared.params, is_leaf=lambda x: isinstance(x, Oriented))
    return any(isinstance(leaf, Oriented) for leaf in leaves)

  assert oriented("plain") and not oriented("fp8")


@pytest.mark.parametrize("precision", ["plain", "fp8"])
def test_a_model_by_kernels_is_the_same_model(precision, mini):
  """XLA's forms of the kernels, which run everywhere; the widths are filled up to tiles."""
  wanted, found = (
    jax.device_get(
      jax.jit(jax.value_and_grad(functools.partial(loss_of, model)))(weights.params, weights)
    )
    for model, weights in (mini("v3", precision=precision, kernels=k) for k in ("off", "xla"))
  )
  assert found[0] == pytest.approx(wanted[0], rel=1e-5 if precision == "plain" else 0.01)
  for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
    np.testing.assert_allclose(
      a, b, rtol=0, atol=(1e-5 if precision == "plain" else 0.05) * np.abs(b).max()
    )


def test_absorbed_decoding_by_kernels_is_the_same(mini, run):
  def steps(kernels):
    model, weights = mini("v3", kernels=kernels)
    cache, found = init_cache(model.config, B, 8), []
    for start, end in ((0, 3), (3, 4), (4, 5)):
      place = [a[:, start:end] for a in SPAN]
      out = run(model, weights, TOKENS[:, start:end], *place, cache=cache, absorbed=start > 0)
      cache = out.cache
      found.append(out.hidden_BTD)
    return np.concatenate(found, axis=1)

  np.testing.assert_allclose(steps("xla"), steps("off"), atol=1e-5)


def test_the_kernels_are_in_the_program(mini):
  """As many as there are: routing in two layers, absorbed attention in three; products in FP8."""

  def kernels(step, **compute):
    model, _ = mini("v3", **compute)
    attention = dataclasses.replace(model.config.attention, kv_latent=128, rope_dim=16)
    model = model.clone(config=dataclasses.replace(model.config, attention=attention))
    weights = jax.eval_shape(functools.partial(init_weights, model), jax.random.key(0))
    return len(named("pallas_call", functools.partial(step, model), weights))

  def decode(model, weights):
    last = [a[:, :1] for a in (TOKENS, *SPAN)]
    return forward(model, weights, *last, cache=init_cache(model.config, B, 8), absorbed=True)

  assert kernels(decode, kernels="off") == kernels(gradient, kernels="off", precision="fp8") == 0
  assert kernels(decode, kernels="tpu") == 2 + 3
  assert kernels(gradient, kernels="tpu", unroll=0, precision="fp8") > 50
