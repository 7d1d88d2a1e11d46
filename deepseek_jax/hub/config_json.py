"""config.json of a Hugging Face checkpoint, to and from ModelConfig.

Model types: deepseek_v3 (R1 and Moonlight too), kimi_k2 (which is V3's and is written as such),
deepseek_v2 (V2 and V2-Lite), qwen2, qwen3, llama. A missing field has the default that transformers
gives it. What the file can say and this model cannot do is refused by name. Where the file knows
less than we do:
- `initializer_range` is read as the initial deviation; DeepSeek's files say 0.02 where the paper
  trained with 0.006 (2412.19437, section 4.2);
- a sigmoid router always has a selection bias in a file, so `selection_bias=False` comes back as
  True with biases of zero, which is the same model.
"""

from collections.abc import Mapping
from typing import Any

from deepseek_jax.config import (
  GQAConfig,
  MLAConfig,
  ModelConfig,
  MoEConfig,
  require,
)
from deepseek_jax.hub.fields import Fields
from deepseek_jax.hub.rope_json import rope_from_json, rope_to_json

# Defaults of transformers' configuration classes, for the fields read here.
_DEFAULTS: dict[str, dict[str, Any]] = {
  "deepseek_v3": {
    "vocab_size": 129_280, "hidden_size": 7168, "intermediate_size": 18_432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
    "n_shared_experts": 1, "n_routed_experts": 256, "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "qk_nope_head_dim": 128, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8,
    "first_k_dense_replace": 3, "norm_topk_prob": True, "max_position_embeddings": 4096,
    "num_nextn_predict_layers": 1,
  },
  "deepseek_v2": {
    "vocab_size": 102_400, "hidden_size": 4096, "intermediate_size": 11_008,
    "moe_intermediate_size": 1407, "num_hidden_layers": 32, "num_attention_heads": 32,
    "n_shared_experts": 2, "n_routed_experts": 64, "routed_scaling_factor": 1.0,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "qk_nope_head_dim": 128, "first_k_dense_replace": 0, "norm_topk_prob": False,
    "max_position_embeddings": 2048, "topk_method": "greedy",
  },
  "qwen2": {
    "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 22_016,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
  },
  "qwen3": {
    "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 22_016,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128,
    "max_position_embeddings": 32_768,
  },
  "llama": {
    "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048,
  },
}  # fmt: skip
_COMMON = {
  "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "initializer_range": 0.02,
  "num_nextn_predict_layers": 0, "rope_theta": 10_000.0,
}  # fmt: skip

# Fields that must be absent, null or one of these, per model type ("" is every type).
_ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
  "": {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,)},
  "deepseek_v3": {
    "scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",), "moe_layer_freq": (1,),
    "rope_interleave": (True,),
  },
  "deepseek_v2": {
    "scoring_func": ("softmax",), "topk_method": ("greedy", "group_limited_greedy"),
    "moe_layer_freq": (1,), "norm_topk_prob": (False,),
  },
  "qwen2": {"use_mrope": (False,)},
  "qwen3": {},
  "llama": {},
}  # fmt: skip

_SAME = {"kimi_k2": "deepseek_v3"}  # other names of a type, whose code differs in nothing
_ARCHITECTURES = {
  "deepseek_v3": "DeepseekV3ForCausalLM",
  "deepseek_v2": "DeepseekV2ForCausalLM",
  "qwen2": "Qwen2ForCausalLM",
  "qwen3": "Qwen3ForCausalLM",
  "llama": "LlamaForCausalLM",
}


def from_json(values: Mapping[str, Any]) -> ModelConfig:
  """The architecture that a config.json describes; ConfigError names what it cannot be."""
  require(isinstance(values, Mapping), "config.json must hold an object of fields.")
  supported = f"supported are {', '.join((*_DEFAULTS, *_SAME))}."
  model_type = values.get("model_type")
  require(model_type is not None, f"config.json has no model_type; {supported}")
  model_type = model_type if isinstance(model_type, str) else repr(model_type)
  require(
    model_type in _DEFAULTS or model_type in _SAME,
    f"config.json has model_type {model_type!r}; {supported}",
  )
  model_type = _SAME.get(model_type, model_type)
  for name, allowed in (_ONLY[""] | _ONLY[model_type]).items():
    require(
      values.get(name) in (None, *allowed),
      f"config.json has {name} = {values.get(name)!r}; only "
      f"{' or '.join(repr(a) for a in allowed)} is supported with model_type {model_type}.",
    )
  if "num_mtp_layers" in values:  # transformers' other name for it
    values = {"num_nextn_predict_layers": values["num_mtp_layers"], **values}
  fields = Fields(values, _COMMON | _DEFAULTS[model_type])
  d_model, heads = (fields.positive(n, int) for n in ("hidden_size", "num_attention_heads"))
  deepseek = model_type.startswith("deepseek")
  std = fields.get("initializer_range", float)
  return ModelConfig(
    vocab=fields.get("vocab_size", int),
    d_model=d_model,
    layers=fields.get("num_hidden_layers", int),
    heads=heads,
    dense_ff=fields.get("intermediate_size", int),
    attention=_mla(fields) if deepseek else _gqa(fields, model_type, d_model, heads),
    moe=_moe(fields, model_type) if deepseek else None,
    mtp_depth=fields.get("num_nextn_predict_layers", int, 0),
    rope=rope_from_json(fields, deepseek),
    norm_eps=fields.positive("rms_norm_eps", float),
    tied=fields.get("tie_word_embeddings", bool),
    max_context=fields.get("max_position_embeddings", int),
    init_std=None if std == 0.5 / d_model**0.5 else std,
  )


def _mla(fields: Fields) -> MLAConfig:
  """DeepSeek's attention."""
  q_latent = fields.values.get("q_lora_rank", fields.defaults["q_lora_rank"])
  return MLAConfig(
    kv_latent=fields.get("kv_lora_rank", int),
    nope_dim=fields.get("qk_nope_head_dim", int),
    rope_dim=fields.get("qk_rope_head_dim", int),
    v_dim=fields.get("v_head_dim", int),
    q_latent=fields.get("q_lora_rank", int) if q_latent else None,
  )


def _gqa(fields: Fields, model_type: str, d_model: int, heads: int) -> GQAConfig:
  """Qwen's and Llama's attention, on all earlier tokens."""
  windows = fields.get("use_sliding_window", bool, False) and (
    fields.get("max_window_layers", int, 28) < fields.get("num_hidden_layers", int)
  )
  kinds = fields.values.get("layer_types") or ["full_attention"]
  require(
    not windows and isinstance(kinds, list) and all(kind == "full_attention" for kind in kinds),
    "config.json asks for sliding-window attention, which is not supported.",
  )
  return GQAConfig(
    kv_heads=fields.get("num_key_value_heads", int, heads),
    head_dim=fields.get("head_dim", int, d_model // heads),
    qkv_bias=model_type == "qwen2",
    qk_norm=model_type == "qwen3",
  )


def _moe(fields: Fields, model_type: str) -> MoEConfig | None:
  """DeepSeek's experts; None when every layer is dense."""
  dense_layers = fields.get("first_k_dense_replace", int)
  experts = fields.get("n_routed_experts", int, 0)
  if experts == 0:
    return None
  v3 = model_type == "deepseek_v3"
  grouped = v3 or fields.get("topk_method", str) == "group_limited_greedy"
  return MoEConfig(
    experts=experts,
    top_k=fields.get("num_experts_per_tok", int),
    expert_ff=fields.get("moe_intermediate_size", int),
    shared=fields.get("n_shared_experts", int, 0),
    dense_layers=dense_layers,
    groups=fields.get("n_group", int, 1) if grouped else 1,
    top_groups=fields.get("topk_group", int, 1) if grouped else 1,
    scoring="sigmoid" if v3 else "softmax",
    group_score="top2" if v3 else "max",
    selection_bias=v3,
    normalize=fields.get("norm_topk_prob", bool),
    scale=fields.get("routed_scaling_factor", float),
  )


def to_json(config: ModelConfig) -> dict[str, Any]:
  """The fields of config.json; ConfigError if no supported model type can say `config`."""
  deepseek = isinstance(config.attention, MLAConfig)
  model_type = _deepseek_type(config) if deepseek else _dense_type(config)
  fields: dict[str, Any] = {
    "architectures": [_ARCHITECTURES[model_type]],
    "model_type": model_type,
    "vocab_size": config.vocab,
    "hidden_size": config.d_model,
    "intermediate_size": config.dense_ff,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "hidden_act": "silu",
    "max_position_embeddings": config.max_context,
    "initializer_range": config.std,
    "rms_norm_eps": config.norm_eps,
    "tie_word_embeddings": config.tied,
    "attention_bias": False,
    "use_cache": True,
    **rope_to_json(config.rope),
  }
  if deepseek:
    return fields | _deepseek_fields(config, model_type)
  assert isinstance(config.attention, GQAConfig)
  return fields | {
    "num_key_value_heads": config.attention.kv_heads,
    "head_dim": config.attention.head_dim,
  }


def _refuse(holds: bool, what: str) -> None:
  """Raises unless `holds`: there is no checkpoint format for `what`."""
  require(holds, f"a model with {what} has no Hugging Face form; it cannot be exported.")


def _dense_type(config: ModelConfig) -> str:
  """qwen2 with biases of queries, keys and values, qwen3 with norms of the former two, or llama."""
  assert isinstance(config.attention, GQAConfig)
  _refuse(config.moe is None, "grouped-query attention and experts")
  _refuse(config.mtp_depth == 0, "grouped-query attention and MTP modules")
  yarn = config.rope.scaling == "yarn"
  _refuse(not (yarn and config.rope.mscale_all_dim), "grouped-query attention and mscale_all_dim")
  biases, norms = config.attention.qkv_bias, config.attention.qk_norm
  _refuse(not (biases and norms), "both biases and norms of queries and keys")
  return "qwen2" if biases else "qwen3" if norms else "llama"


def _deepseek_type(config: ModelConfig) -> str:
  """deepseek_v3 (sigmoid router, or no experts) or deepseek_v2 (softmax router)."""
  moe = config.moe
  if moe is None:
    return "deepseek_v3"
  _refuse(moe.shared > 0, "experts but no shared expert")
  score = "top2" if moe.scoring == "sigmoid" else "max"
  _refuse(
    moe.groups == 1 or moe.group_score == score,
    f"{moe.scoring} scoring and group_score {moe.group_score}",
  )
  if moe.scoring == "sigmoid":
    return "deepseek_v3"
  _refuse(not moe.normalize, "softmax scoring and normalized weights")
  _refuse(not moe.selection_bias, "softmax scoring and a selection bias")
  return "deepseek_v2"


def _deepseek_fields(config: ModelConfig, model_type: str) -> dict[str, Any]:
  """Fields that only DeepSeek's types have."""
  attention, moe = config.attention, config.moe
  assert isinstance(attention, MLAConfig)
  fields: dict[str, Any] = {
    "num_key_value_heads": config.heads,
    "kv_lora_rank": attention.kv_latent,
    "q_lora_rank": attention.q_latent,
    "qk_nope_head_dim": attention.nope_dim,
    "qk_rope_head_dim": attention.rope_dim,
    "v_head_dim": attention.v_dim,
    "num_nextn_predict_layers": config.mtp_depth,
  }
  if moe is None:
    return fields | {"n_routed_experts": 0, "first_k_dense_replace": config.layers}
  fields |= {
    "n_routed_experts": moe.experts,
    "num_experts_per_tok": moe.top_k,
    "moe_intermediate_size": moe.expert_ff,
    "n_shared_experts": moe.shared,
    "first_k_dense_replace": moe.dense_layers,
    "moe_layer_freq": 1,
    "n_group": moe.groups,
    "topk_group": moe.top_groups,
    "scoring_func": moe.scoring,
    "norm_topk_prob": moe.normalize,
    "routed_scaling_factor": moe.scale,
  }
  if model_type == "deepseek_v3":
    return fields | {"topk_method": "noaux_tc", "rope_interleave": True}
  return fields | {"topk_method": "greedy" if moe.groups == 1 else "group_limited_greedy"}
