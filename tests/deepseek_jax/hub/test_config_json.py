"""config.json files of the released models are our presets, and every preset survives the trip."""

import dataclasses
import json

import pytest

from deepseek_jax.config import ConfigError, GQAConfig, RopeConfig
from deepseek_jax.hub.config_json import from_json, to_json
from deepseek_jax.hub.rope_json import left_out
from deepseek_jax.presets import PRESETS, preset

DEEPSEEK_YARN = {
  "beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
  "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
V3 = {
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
  "aux_loss_alpha": 0.001, "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1,
  "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
  "initializer_range": 0.02, "intermediate_size": 18432, "kv_lora_rank": 512,
  "max_position_embeddings": 163840, "model_type": "deepseek_v3", "moe_intermediate_size": 2048,
  "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
  "norm_topk_prob": True, "num_attention_heads": 128, "num_experts_per_tok": 8,
  "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
  "pretraining_tp": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "quantization_config": {
    "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
    "weight_block_size": [128, 128],
  },
  "rms_norm_eps": 1e-06, "rope_scaling": DEEPSEEK_YARN, "rope_theta": 10000,
  "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "seq_aux": True,
  "tie_word_embeddings": False, "topk_group": 4, "topk_method": "noaux_tc",
  "torch_dtype": "bfloat16", "use_cache": True, "v_head_dim": 128, "vocab_size": 129280,
}  # fmt: skip
V2 = {
  "attention_bias": False, "bos_token_id": 100000, "eos_token_id": 100001,
  "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 5120,
  "initializer_range": 0.02, "intermediate_size": 12288, "kv_lora_rank": 512,
  "max_position_embeddings": 163840, "model_type": "deepseek_v2", "moe_intermediate_size": 1536,
  "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 160, "n_shared_experts": 2,
  "norm_topk_prob": False, "num_attention_heads": 128, "num_experts_per_tok": 6,
  "num_hidden_layers": 60, "num_key_value_heads": 128, "q_lora_rank": 1536,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
  "rope_scaling": DEEPSEEK_YARN, "rope_theta": 10000, "routed_scaling_factor": 16.0,
  "scoring_func": "softmax", "tie_word_embeddings": False, "topk_group": 3,
  "topk_method": "group_limited_greedy", "v_head_dim": 128, "vocab_size": 102400,
}  # fmt: skip
V2_LITE = V2 | {
  "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_group": 1,
  "n_routed_experts": 64, "num_attention_heads": 16, "num_hidden_layers": 27,
  "num_key_value_heads": 16, "q_lora_rank": None,
  "rope_scaling": DEEPSEEK_YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
  "routed_scaling_factor": 1.0, "topk_group": 1, "topk_method": "greedy",
}  # fmt: skip


def qwen(d, layers, heads, kv, ff, vocab, theta, eps):
  return {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "hidden_act": "silu", "hidden_size": d, "initializer_range": 0.02, "intermediate_size": ff,
    "max_position_embeddings": 131072, "max_window_layers": 21, "model_type": "qwen2",
    "num_attention_heads": heads, "num_hidden_layers": layers, "num_key_value_heads": kv,
    "rms_norm_eps": eps, "rope_theta": theta, "sliding_window": 4096,
    "tie_word_embeddings": False, "use_mrope": False, "use_sliding_window": False,
    "vocab_size": vocab,
  }  # fmt: skip


def llama(d, layers, heads, ff):
  return {
    "attention_bias": False, "bos_token_id": 128000, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": d, "initializer_range": 0.02, "intermediate_size": ff,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": heads, "num_hidden_layers": layers, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {
      "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
      "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": False, "vocab_size": 128256,
  }  # fmt: skip


SMOLLM2 = {
  "attention_bias": False, "hidden_act": "silu", "hidden_size": 576,
  "initializer_range": 0.041666666666666664, "intermediate_size": 1536,
  "max_position_embeddings": 8192, "mlp_bias": False, "model_type": "llama",
  "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
  "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
  "tie_word_embeddings": True, "vocab_size": 49152,
}  # fmt: skip
QWEN3 = {  # DeepSeek-R1-0528-Qwen3-8B
  "attention_bias": False, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
  "initializer_range": 0.02, "intermediate_size": 12288, "max_position_embeddings": 131072,
  "model_type": "qwen3", "num_attention_heads": 32, "num_hidden_layers": 36,
  "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
  "rope_scaling": {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
    "attn_factor": 0.8782488562869419,
  },
  "rope_theta": 1000000, "tie_word_embeddings": False, "use_sliding_window": False,
  "vocab_size": 151936,
}  # fmt: skip
RELEASED = {
  "r1_0528_qwen3_8b": QWEN3,
  "v3_671b": V3,
  "v2_236b": V2,
  "v2_lite_16b": V2_LITE,
  "r1_distill_qwen_1_5b": qwen(1536, 28, 12, 2, 8960, 151936, 10000, 1e-6),
  "r1_distill_qwen_7b": qwen(3584, 28, 28, 4, 18944, 152064, 10000, 1e-6),
  "r1_distill_qwen_14b": qwen(5120, 48, 40, 8, 13824, 152064, 1000000.0, 1e-5),
  "r1_distill_qwen_32b": qwen(5120, 64, 40, 8, 27648, 152064, 1000000.0, 1e-5),
  "r1_distill_llama_8b": llama(4096, 32, 32, 14336),
  "r1_distill_llama_70b": llama(8192, 80, 64, 28672),
  "smollm2_135m": SMOLLM2,
}


def in_new_format(fields: dict) -> dict:
  """As transformers 5 writes it: one rope_parameters with rope_theta inside."""
  fields = dict(fields)
  rope = dict(fields.pop("rope_scaling", None) or {"rope_type": "default"})
  rope["rope_theta"] = fields.pop("rope_theta")
  rope.setdefault("rope_type", rope.get("type"))
  return fields | {"rope_parameters": rope}


@pytest.mark.parametrize("convert", [dict, in_new_format])
@pytest.mark.parametrize("name", RELEASED)
def test_released_files_are_the_presets(name, convert):
  config = from_json(json.loads(json.dumps(convert(RELEASED[name]))))
  if name.startswith("v"):  # the files say 0.02, the papers trained with 0.006
    assert config.init_std == 0.02
    config = dataclasses.replace(config, init_std=0.006)
  assert config == preset(name)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_trip(name):
  config = preset(name)
  assert from_json(json.loads(json.dumps(to_json(config)))) == config
  # and what is written says nothing else than the released file does
  for key, value in RELEASED.get(name, {}).items():
    ours = to_json(config).get(key, value)
    if key not in ("rope_scaling", "architectures", "initializer_range"):
      assert ours == value, key


def test_missing_fields_have_transformers_defaults():
  transformers = pytest.importorskip("transformers", reason="needs transformers installed")
  for model_type, cls in {
    "deepseek_v3": "DeepseekV3Config",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "llama": "LlamaConfig",
  }.items():
    full = getattr(transformers, cls)().to_dict()
    assert from_json({"model_type": model_type}) == from_json(full | {"model_type": model_type})
  full = transformers.DeepseekV2Config(num_experts_per_tok=6).to_dict()
  assert from_json({"model_type": "deepseek_v2", "num_experts_per_tok": 6}) == from_json(full)


def test_others_use_the_shape_of_v3():
  """Moonlight's norms and Kimi's name; what MLA does not read of GQA is passed over."""
  moonlight = V3 | {"rms_norm_eps": 1e-5, "q_lora_rank": None, "n_group": 1, "topk_group": 1}
  config = from_json(moonlight | {"num_key_value_heads": 4, "num_nextn_predict_layers": 0})
  assert (config.norm_eps, config.attention.q_latent, config.mtp_depth) == (1e-5, None, 0)
  assert from_json(to_json(config)) == config
  kimi = from_json(V3 | {"model_type": "kimi_k2"})
  assert kimi == from_json(V3) and to_json(kimi)["model_type"] == "deepseek_v3"


def test_bases_of_a_million_tokens_and_divided_positions():
  long = from_json(RELEASED["r1_distill_llama_8b"] | {"rope_theta": 3580165449.0})
  assert long.rope.theta == 3580165449.0 and from_json(to_json(long)) == long
  coder = from_json(SMOLLM2 | {"rope_scaling": {"type": "linear", "factor": 4}})
  assert coder.rope == RopeConfig(theta=1e5, scaling="linear", factor=4.0)
  assert from_json(to_json(coder)) == coder
  closer = from_json(SMOLLM2 | {"rope_scaling": {"type": "linear", "factor": 0.5}})
  assert closer.rope.factor == 0.5 and from_json(to_json(closer)) == closer
  with pytest.raises(ConfigError, match="too large"):
    from_json(SMOLLM2 | {"rope_theta": 1e300})


@pytest.mark.parametrize("name", RELEASED)
def test_what_is_left_out_of_rope_scaling_is_known(name):
  surplus = ["attn_factor"] if name == "r1_0528_qwen3_8b" else []
  assert left_out(RELEASED[name]) == left_out(in_new_format(RELEASED[name])) == surplus
  assert left_out(to_json(preset(name))) == []


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def test_yarn_without_mscales_scales_as_transformers_does():
  plain = RopeConfig(scaling="yarn", factor=4.0, original_context=32768)
  for extra in ({}, {"mscale": 0.707}, {"mscale": 1.0, "mscale_all_dim": 0.0}):
    assert from_json(RELEASED["r1_distill_qwen_7b"] | {"rope_scaling": YARN | extra}).rope == plain
  assert from_json(V3 | {"rope_scaling": YARN | {"attention_factor": 1.0}}).rope.mscale == 0.0


@pytest.mark.parametrize(
  "rope",
  [
    RopeConfig(scaling="yarn", factor=4.0, mscale=0.3),
    RopeConfig(scaling="yarn", factor=4.0, mscale=0.0, mscale_all_dim=0.0),
    RopeConfig(scaling="yarn", factor=8.0, mscale=0.0, mscale_all_dim=0.5),
  ],
)
def test_odd_mscales_survive_the_trip(rope):
  config = dataclasses.replace(preset("v3_mini"), rope=rope)
  assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
  ("base", "change", "named"),
  [
    (V3, {"model_type": "mamba"}, "mamba"),
    (V3, {"hidden_size": "wide"}, "hidden_size"),
    (V3, {"hidden_size": None}, "hidden_size"),
    (V3, {"num_hidden_layers": True}, "num_hidden_layers"),
    (V3, {"topk_method": "greedy"}, "topk_method"),
    (V3, {"attention_bias": True}, "attention_bias"),
    (V3, {"rope_interleave": False}, "rope_interleave"),
    (V3, {"num_experts_per_tok": 300}, "top_k"),
    (V3, {"rope_scaling": {"type": "longrope"}}, "longrope"),
    (V3, {"rope_scaling": {"type": "yarn", "factor": "x"}}, "factor"),
    (V3, {"rope_scaling": {"factor": 4.0}}, "factor but without a rope_type"),
    (V3, {"rope_scaling": {"rope_type": None, "factor": 4.0}}, "None"),
    (V3, {"rope_scaling": {"rope_type": ["yarn"]}}, "yarn"),
    (V3, {"rope_theta": 1}, "above 1"),
    (V3, {"rope_theta": 1e-300}, "rope_theta"),
    (V3, {"rope_theta": float("nan")}, "rope_theta"),
    (V3, {"rope_scaling": {"type": "yarn", "factor": 0.5}}, "factor"),
    (SMOLLM2, {"rope_scaling": {"type": "linear", "factor": 1e-30}}, "factor"),
    (V2, {"norm_topk_prob": True}, "norm_topk_prob"),
    (RELEASED["r1_distill_qwen_7b"], {"use_sliding_window": True}, "sliding-window"),
    (RELEASED["r1_distill_llama_8b"], {"hidden_act": "gelu"}, "hidden_act"),
    (RELEASED["r1_distill_llama_8b"], {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    (SMOLLM2, {"rope_scaling": YARN | {"mscale": 1, "mscale_all_dim": 1}}, "mscale_all_dim"),
  ],
)
def test_what_we_cannot_be_is_refused_by_name(base, change, named):
  with pytest.raises(ConfigError, match=named):
    from_json(base | change)


def test_what_has_no_hugging_face_form_is_refused():
  mini = preset("v3_mini")
  moe = mini.moe
  for change in (
    {"moe": dataclasses.replace(moe, shared=0)},
    {"moe": dataclasses.replace(moe, group_score="max")},
    {"moe": dataclasses.replace(moe, scoring="softmax", group_score="max")},
    {"attention": GQAConfig(kv_heads=3, head_dim=32)},
  ):
    with pytest.raises(ConfigError, match="no Hugging Face form"):
      to_json(dataclasses.replace(mini, **change))
