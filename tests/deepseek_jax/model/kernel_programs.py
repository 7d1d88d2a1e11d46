"""A training step's gradient and a decoding step in FP8 by kernels, to compile ahead of time."""

import functools

import jax
import jax.numpy as jnp

from deepseek_jax.config import ComputeConfig, MLAConfig, ModelConfig, MoEConfig
from deepseek_jax.model.cache import init_cache
from deepseek_jax.model.transformer import Transformer, forward, init_weights

MODEL = ModelConfig(
  vocab=512,
  d_model=256,
  layers=2,
  heads=64,
  dense_ff=384,
  attention=MLAConfig(q_latent=128, kv_latent=128, nope_dim=16, rope_dim=64, v_dim=16),
  moe=MoEConfig(experts=8, top_k=2, expert_ff=128, groups=4, top_groups=2),
)
B, T, S = 2, 128, 1024


def programs(chip):
  """Of a model with a dense layer and one of experts, by all kernels of the chip."""
  compute = ComputeConfig(
    dtype="bfloat16", precision="fp8", kernels="mgpu" if chip == "h100" else "tpu"
  )
  model = Transformer(MODEL, compute)
  weights = jax.eval_shape(functools.partial(init_weights, Transformer(MODEL)), jax.random.key(0))
  cache = jax.eval_shape(lambda: init_cache(MODEL, B, S, jnp.bfloat16))

  def gradient(weights, *span):
    def loss(params):
      hidden_BTD = forward(model, weights.replace(params=params), *span).hidden_BTD
      return jnp.mean(hidden_BTD.astype(jnp.float32) ** 2)

    return jax.grad(loss)(weights.params)

  def decode(weights, cache, *span):
    return forward(model, weights, *span, cache=cache, absorbed=True)

  def span(length):
    return [jax.ShapeDtypeStruct((B, length), jnp.int32)] * 3

  steps = {"gradient": (gradient, (weights, *span(T)))}
  return steps | {"decode": (decode, (weights, cache, *span(1)))}
