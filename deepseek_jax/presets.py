"""Architectures of published models, and the minis this project trains.

Figures: the config.json files of the released checkpoints. Where paper and files differ, the
paper's training values are taken for training (initialisation 0.006) and the files' for shapes.
"""

import dataclasses

from deepseek_jax.config import (
  ConfigError,
  GQAConfig,
  MLAConfig,
  ModelConfig,
  MoEConfig,
  RopeConfig,
)

_DEEPSEEK_ROPE = RopeConfig(
  scaling="yarn", factor=40.0, original_context=4096, mscale=1.0, mscale_all_dim=1.0
)
_LLAMA3_ROPE = RopeConfig(theta=5e5, scaling="llama3", factor=8.0, original_context=8192)
_QWEN3_ROPE = RopeConfig(theta=1e6, scaling="yarn", factor=4.0, original_context=32_768)

_V3 = ModelConfig(
  vocab=129_280,
  d_model=7168,
  layers=61,
  heads=128,
  dense_ff=18_432,
  attention=MLAConfig(q_latent=1536, kv_latent=512, nope_dim=128, rope_dim=64, v_dim=128),
  moe=MoEConfig(
    experts=256, top_k=8, expert_ff=2048, dense_layers=3, groups=8, top_groups=4, scale=2.5
  ),
  mtp_depth=1,
  rope=_DEEPSEEK_ROPE,
  max_context=163_840,
  init_std=0.006,
)

_V2 = ModelConfig(
  vocab=102_400,
  d_model=5120,
  layers=60,
  heads=128,
  dense_ff=12_288,
  attention=MLAConfig(q_latent=1536, kv_latent=512, nope_dim=128, rope_dim=64, v_dim=128),
  moe=MoEConfig(
    experts=160,
    top_k=6,
    expert_ff=1536,
    shared=2,
    groups=8,
    top_groups=3,
    scoring="softmax",
    group_score="max",
    selection_bias=False,
    normalize=False,
    scale=16.0,
  ),
  rope=_DEEPSEEK_ROPE,
  max_context=163_840,
  init_std=0.006,
)

_V2_LITE = ModelConfig(
  vocab=102_400,
  d_model=2048,
  layers=27,
  heads=16,
  dense_ff=10_944,
  attention=MLAConfig(kv_latent=512, nope_dim=128, rope_dim=64, v_dim=128),
  moe=MoEConfig(
    experts=64,
    top_k=6,
    expert_ff=1408,
    shared=2,
    scoring="softmax",
    group_score="max",
    selection_bias=False,
    normalize=False,
  ),
  rope=dataclasses.replace(_DEEPSEEK_ROPE, mscale=0.707, mscale_all_dim=0.707),
  max_context=163_840,
  init_std=0.006,
)


def _dense(
  d_model: int,
  layers: int,
  heads: int,
  kv_heads: int,
  ff: int,
  vocab: int,
  rope: RopeConfig,
  eps: float,
  qkv_bias: bool,
  qk_norm: bool = False,
) -> ModelConfig:
  """A Qwen or Llama 3 student of R1; all have head dimension 128 but the smallest."""
  return ModelConfig(
    vocab=vocab,
    d_model=d_model,
    layers=layers,
    heads=heads,
    dense_ff=ff,
    attention=GQAConfig(kv_heads, d_model // heads, qkv_bias, qk_norm),
    rope=rope,
    norm_eps=eps,
    max_context=131_072,
    init_std=0.02,
  )


PRESETS: dict[str, ModelConfig] = {
  "v3_671b": _V3,
  "r1_671b": _V3,
  "v2_236b": _V2,
  "v2_lite_16b": _V2_LITE,
  "r1_distill_qwen_1_5b": _dense(1536, 28, 12, 2, 8960, 151_936, RopeConfig(theta=1e4), 1e-6, True),
  "r1_distill_qwen_7b": _dense(3584, 28, 28, 4, 18_944, 152_064, RopeConfig(theta=1e4), 1e-6, True),
  "r1_distill_qwen_14b": _dense(
    5120, 48, 40, 8, 13_824, 152_064, RopeConfig(theta=1e6), 1e-5, True
  ),
  "r1_distill_qwen_32b": _dense(
    5120, 64, 40, 8, 27_648, 152_064, RopeConfig(theta=1e6), 1e-5, True
  ),
  "r1_distill_llama_8b": _dense(4096, 32, 32, 8, 14_336, 128_256, _LLAMA3_ROPE, 1e-5, False),
  "r1_distill_llama_70b": _dense(8192, 80, 64, 8, 28_672, 128_256, _LLAMA3_ROPE, 1e-5, False),
  "r1_0528_qwen3_8b": _dense(
    4096, 36, 32, 8, 12_288, 151_936, _QWEN3_ROPE, 1e-6, qkv_bias=False, qk_norm=True
  ),
  "smollm2_135m": ModelConfig(
    vocab=49_152,
    d_model=576,
    layers=30,
    heads=9,
    dense_ff=1536,
    attention=GQAConfig(kv_heads=3, head_dim=64),
    rope=RopeConfig(theta=1e5),
    norm_eps=1e-5,
    tied=True,
    max_context=8192,
    init_std=1 / 24,
  ),
  "v3_mini": ModelConfig(
    vocab=512,
    d_model=96,
    layers=3,
    heads=3,
    dense_ff=256,
    attention=MLAConfig(q_latent=48, kv_latent=32, nope_dim=24, rope_dim=8, v_dim=32),
    moe=MoEConfig(experts=8, top_k=2, expert_ff=32, groups=4, top_groups=2, scale=1.0),
    mtp_depth=1,
    max_context=512,
  ),
  "v3_100m": ModelConfig(  # the shape `experiments.bench --suite=train` measures: 105.5M parameters
    vocab=8192,
    d_model=512,
    layers=8,
    heads=8,
    dense_ff=1280,  # the width a token meets in an expert layer
    attention=MLAConfig(q_latent=96, kv_latent=80, nope_dim=64, rope_dim=32, v_dim=64),
    moe=MoEConfig(experts=32, top_k=4, expert_ff=256, groups=4, top_groups=2, scale=2.5),
    max_context=4096,
  ),
}


def preset(name: str) -> ModelConfig:
  """The named architecture; ConfigError names those there are."""
  if name not in PRESETS:
    raise ConfigError(f"model preset {name!r} is unknown; the presets are {', '.join(PRESETS)}.")
  return PRESETS[name]
