"""Small models of every kind, with random weights at which every part counts.

Weights and results are NumPy arrays: JAX would compile each little operation of a test.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest

from deepseek_jax.config import (
  ComputeConfig,
  GQAConfig,
  MLAConfig,
  ModelConfig,
  MoEConfig,
  RopeConfig,
)
from deepseek_jax.model.transformer import (
  Output,
  Transformer,
  forward,
  init_weights,
  mtp_hidden,
)
from deepseek_jax.types import Routing, Weights

# No two widths are equal, so that no wrong axis fits.
KINDS = {
  "v3": ModelConfig(
    vocab=40,
    d_model=24,
    layers=3,
    heads=2,
    dense_ff=20,
    attention=MLAConfig(q_latent=12, kv_latent=9, nope_dim=6, rope_dim=4, v_dim=5),
    moe=MoEConfig(experts=8, top_k=2, expert_ff=7, groups=4, top_groups=2, scale=2.5),
    mtp_depth=1,
  ),
  "v2": ModelConfig(
    vocab=40,
    d_model=24,
    layers=3,
    heads=2,
    dense_ff=20,
    attention=MLAConfig(kv_latent=9, nope_dim=6, rope_dim=4, v_dim=5),
    moe=MoEConfig(
      experts=8,
      top_k=3,
      expert_ff=7,
      shared=2,
      groups=4,
      top_groups=2,
      scoring="softmax",
      group_score="max",
      selection_bias=False,
      normalize=False,
      scale=3.0,
    ),
    rope=RopeConfig(
      scaling="yarn", factor=4.0, original_context=16, mscale=0.707, mscale_all_dim=0.707
    ),
  ),
  "dense": ModelConfig(
    vocab=40,
    d_model=24,
    layers=2,
    heads=4,
    dense_ff=20,
    attention=GQAConfig(kv_heads=2, head_dim=6, qkv_bias=True),
    rope=RopeConfig(scaling="llama3", factor=2.0, original_context=16),
    mtp_depth=1,
    tied=True,
  ),
}
# One stack of layers with the simplest attention, for what takes long to compile.
KINDS["experts"] = dataclasses.replace(
  KINDS["v3"],
  layers=2,
  attention=GQAConfig(kv_heads=1, head_dim=6),
  moe=dataclasses.replace(KINDS["v3"].moe, dense_layers=0),
  mtp_depth=2,
)


class Mini(NamedTuple):
  """A model and its weights."""

  model: Transformer
  weights: Weights


def random_weights(model: Transformer, seed: int = 0) -> Weights:
  """Weights of deviation 0.3, norms about one, router biases of both signs."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    centre = 1.0 if "norm" in str(path[-1]) else 0.0
    return (centre + 0.3 * rng.normal(size=leaf.shape)).astype(np.float32)

  abstract = jax.eval_shape(functools.partial(init_weights, model), jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, abstract)


@pytest.fixture(scope="session")
def mini() -> Callable[..., Mini]:
  """`mini(kind, **compute)`: the model of that kind; the same weights for any way to compute."""

  @functools.cache
  def weights(kind: str) -> Weights:
    return random_weights(Transformer(KINDS[kind]))

  def make(kind: str, **compute) -> Mini:
    return Mini(Transformer(KINDS[kind], ComputeConfig(**compute)), weights(kind))

  return make


@pytest.fixture(scope="session")
def run() -> Callable[..., Output]:
  """`forward`, compiled once for each model and shape; positions 0, 1, ... in one segment."""
  compiled = jax.jit(forward, static_argnums=0, static_argnames="absorbed")

  def call(model, weights, tokens_BT, positions_BT=None, segments_BT=None, **options) -> Output:
    tokens_BT = np.asarray(tokens_BT, np.int32)
    if positions_BT is None:
      positions_BT = np.tile(np.arange(tokens_BT.shape[1]), (len(tokens_BT), 1))
    if segments_BT is None:
      segments_BT = np.ones(tokens_BT.shape)
    span = [np.asarray(x, np.int32) for x in (positions_BT, segments_BT)]
    return jax.device_get(compiled(model, weights, tokens_BT, *span, **options))

  return call


@pytest.fixture(scope="session")
def run_mtp(run) -> Callable[..., tuple[jax.Array, Routing]]:
  """Main model and MTP modules after one another: hidden states [P, B, T, D] and Routing."""
  compiled = jax.jit(mtp_hidden, static_argnums=0)

  def call(model, weights, tokens_BT, positions_BT=None, segments_BT=None):
    hidden_BTD = run(model, weights, tokens_BT, positions_BT, segments_BT).hidden_BTD
    if positions_BT is None:
      positions_BT = np.tile(np.arange(tokens_BT.shape[1]), (len(tokens_BT), 1))
    if segments_BT is None:
      segments_BT = np.ones(tokens_BT.shape)
    span = [np.asarray(x, np.int32) for x in (positions_BT, segments_BT)]
    tokens_BT = np.asarray(tokens_BT, np.int32)
    return jax.device_get(compiled(model, weights, hidden_BTD, tokens_BT, *span))

  return call
