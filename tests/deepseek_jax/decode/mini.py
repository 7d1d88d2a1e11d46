"""The models that the engine's tests share: a V3 with an MTP module, and a dense one."""

import dataclasses

import jax

from deepseek_jax.config import GQAConfig, MLAConfig, ModelConfig, MoEConfig
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.types import Weights

V3 = ModelConfig(
  vocab=37,
  d_model=32,
  layers=2,
  heads=2,
  dense_ff=48,
  attention=MLAConfig(q_latent=16, kv_latent=12, nope_dim=8, rope_dim=4, v_dim=8),
  moe=MoEConfig(experts=8, top_k=2, expert_ff=16, groups=4, top_groups=2, scale=1.5),
  mtp_depth=1,
  max_context=256,
)
CONFIGS = {
  "v3": V3,
  "qwen": dataclasses.replace(V3, moe=None, attention=GQAConfig(1, 16, qkv_bias=True), tied=True),
}


def random_weights(config: ModelConfig, seed: int = 0) -> tuple[Transformer, Weights]:
  """Weights with router biases of both signs, large enough to change the selection."""
  model = Transformer(config)
  weights = jax.jit(lambda key: init_weights(model, key))(jax.random.key(seed))
  bias = 0.2 * jax.random.normal(jax.random.key(seed + 1), weights.router_bias_LE.shape)
  return model, Weights(weights.params, bias)
