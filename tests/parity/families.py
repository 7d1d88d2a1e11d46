"""Random small models of every family, as transformers makes and reads them."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity needs torch and transformers installed")
transformers = pytest.importorskip("transformers", reason="parity needs transformers installed")

TOKENS = (2, 24)  # rows, length
PROMPTS = [[7, 3, 11], [5, 9, 2, 40, 33, 17, 60]]

YARN = {
  "rope_type": "yarn", "type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16,
  "beta_fast": 4.0, "beta_slow": 1.0,
}  # fmt: skip
LLAMA3 = {
  "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
  "original_max_position_embeddings": 64,
}  # fmt: skip
COMMON = {
  "vocab_size": 80, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2,
  "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip
MLA = COMMON | {
  "q_lora_rank": 20, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8,
  "v_head_dim": 10, "moe_intermediate_size": 24, "n_routed_experts": 8, "num_experts_per_tok": 3,
  "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
  "num_key_value_heads": 4,
}  # fmt: skip
DENSE = COMMON | {"num_key_value_heads": 2}

DEEPER = {"num_hidden_layers": 3}  # two layers in each of V3's stacks, and in a dense one

CASES = {
  "v3": ("DeepseekV3", MLA | DEEPER),
  "v3_yarn_mscale": (
    "DeepseekV3",
    MLA | {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
  ),
  "v3_direct_query_one_group_tied": (
    "DeepseekV3",
    MLA | {
      "q_lora_rank": None, "n_group": 1, "topk_group": 1, "tie_word_embeddings": True,
      "norm_topk_prob": False, "routed_scaling_factor": 1.3, "n_shared_experts": 2,
      "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.4},
    },
  ),
  "v3_all_dense_plain_yarn": (
    "DeepseekV3", MLA | {"first_k_dense_replace": 2, "rope_scaling": YARN},
  ),
  "v2_groups": (
    "DeepseekV2",
    MLA | DEEPER | {
      "topk_method": "group_limited_greedy", "routed_scaling_factor": 4.0, "n_shared_experts": 2,
      "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
    },
  ),
  "v2_lite": (
    "DeepseekV2",
    MLA | {
      "q_lora_rank": None, "topk_method": "greedy", "n_shared_experts": 2,
      "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
    },
  ),
  "v3_latent_of_576_rows": (  # as many as V3 itself has, four blocks and a half, of odd width
    "DeepseekV3",
    MLA | {
      "hidden_size": 192, "num_attention_heads": 3, "num_key_value_heads": 3, "q_lora_rank": 160,
      "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 32, "v_head_dim": 48,
      "intermediate_size": 200, "moe_intermediate_size": 136, "rope_scaling": YARN,
    },
  ),
  "v2_lite_latent_of_576_rows": (
    "DeepseekV2",
    MLA | {
      "hidden_size": 96, "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": None,
      "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
      "topk_method": "greedy", "num_experts_per_tok": 6, "n_shared_experts": 2,
      "first_k_dense_replace": 0,
    },
  ),
  "moonlight": (
    "DeepseekV3",
    MLA | DEEPER | {
      "q_lora_rank": None, "n_group": 1, "topk_group": 1, "rms_norm_eps": 1e-5,
      "n_shared_experts": 2, "routed_scaling_factor": 2.446, "rope_theta": 5e4,
    },
  ),
  "qwen3": (
    "Qwen3", DENSE | DEEPER | {"head_dim": 20, "rope_theta": 1e6, "tie_word_embeddings": False},
  ),
  "qwen3_tied_yarn": (
    "Qwen3",
    DENSE | {
      "head_dim": 8, "tie_word_embeddings": True, "rope_scaling": YARN | {"attn_factor": 0.8},
    },
  ),
  "llama_linear_rope": (
    "Llama", DENSE | {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
  ),
  "llama_linear_rope_below_one": (
    "Llama", DENSE | {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 0.3}},
  ),
  "llama_large_theta": ("Llama", DENSE | {"rope_theta": 3580165449.0}),
  "qwen2": ("Qwen2", DENSE | DEEPER | {"rope_theta": 1e6}),
  "qwen2_tied_yarn": ("Qwen2", DENSE | {"tie_word_embeddings": True, "rope_scaling": YARN}),
  "llama3": ("Llama", DENSE | {"rope_theta": 5e5, "rope_scaling": LLAMA3, "rms_norm_eps": 1e-5}),
  "qwen2_one_kv_head": (
    "Qwen2", COMMON | {"num_key_value_heads": 1, "num_attention_heads": 3, "head_dim": 18},
  ),
  "llama_one_kv_head": (
    "Llama", COMMON | {"num_key_value_heads": 1, "num_attention_heads": 6, "head_dim": 10},
  ),
  "llama_tied_wide_heads": ("Llama", DENSE | {"tie_word_embeddings": True, "head_dim": 20}),
}  # fmt: skip


def random_model(kind: str, fields: dict, seed: int):
  """A transformers model every parameter of which matters, router biases of both signs too."""
  config = getattr(transformers, f"{kind}Config")(**json.loads(json.dumps(fields)))
  config._attn_implementation = "eager"
  model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
      noise = torch.randn(value.shape, generator=generator)
      if "correction_bias" in name:
        value.copy_(noise - 0.7)  # so that chosen experts have negative scores too
      elif "norm" in name:
        value.copy_(1 + 0.2 * noise)
      elif value.ndim == 1 and "bias" in name:
        value.copy_(0.3 * noise)
      elif "inv_freq" not in name:
        value.copy_(noise * (0.5 if "gate.weight" in name else 0.15))
  return model


def random_tokens(vocab: int, seed: int) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, vocab, TOKENS)


def torch_logits(model, tokens_BT: np.ndarray) -> np.ndarray:
  with torch.no_grad():
    return model(torch.from_numpy(tokens_BT)).logits.numpy()


def gguf_by_transformers(path):
  return transformers.AutoModelForCausalLM.from_pretrained(
    path.parent, gguf_file=path.name, dtype=torch.float32
  ).eval()


def their_model(kind: str, folder):
  """transformers' model of a directory, which must find every tensor it needs there."""
  cls = getattr(transformers, f"{kind}ForCausalLM")
  model, report = cls.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
  assert not report["missing_keys"] and not report["mismatched_keys"]
  prefix = f"model.layers.{model.config.num_hidden_layers}."
  assert all(key.startswith(prefix) for key in report["unexpected_keys"])  # the MTP module's
  return model.eval()


def assert_equal_logits(ours: np.ndarray, theirs: np.ndarray) -> None:
  assert theirs.std() > 0.1  # a model that says something
  assert np.abs(ours - theirs).max() <= 1e-4 * max(1.0, theirs.std())


def greedy(model, prompts, new: int) -> list[list[int]]:
  """The `new` tokens that transformers' model says after each prompt, whatever they are."""
  model.generation_config.eos_token_id = None
  answers = []
  for prompt in prompts:
    tokens = torch.tensor([prompt])
    mask = torch.ones_like(tokens)
    out = model.generate(
      tokens, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0
    )
    answers.append(out[0, len(prompt) :].tolist())
  return answers
