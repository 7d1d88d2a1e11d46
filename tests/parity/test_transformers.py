"""Our logits are those of transformers' models, on random small checkpoints, in float32."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.hub import config_json
from deepseek_jax.hub.safetensors import abstract_weights, load_pretrained, save_pretrained
from deepseek_jax.model.transformer import Transformer, forward, logits, mtp_hidden
from deepseek_jax.types import Weights

torch = pytest.importorskip("torch", reason="parity needs torch and transformers installed")
transformers = pytest.importorskip("transformers", reason="parity needs transformers installed")

SEEDS = range(5)
TOKENS = (2, 24)  # rows, length

YARN = {
  "rope_type": "yarn", "type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16,
  "beta_fast": 4.0, "beta_slow": 1.0,
}  # fmt: skip
LLAMA3 = {
  "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
  "original_max_position_embeddings": 64,
}  # fmt: skip
COMMON = {
  "vocab_size": 80, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 3,
  "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip
MLA = COMMON | {
  "q_lora_rank": 20, "kv_lora_rank": 16, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8,
  "v_head_dim": 10, "moe_intermediate_size": 24, "n_routed_experts": 8, "num_experts_per_tok": 3,
  "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
  "num_key_value_heads": 4,
}  # fmt: skip
DENSE = COMMON | {"num_key_value_heads": 2}

CASES = {
  "v3": ("DeepseekV3", MLA),
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
    "DeepseekV3", MLA | {"first_k_dense_replace": 3, "rope_scaling": YARN},
  ),
  "v2_groups": (
    "DeepseekV2",
    MLA | {
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
  "qwen2": ("Qwen2", DENSE | {"rope_theta": 1e6}),
  "qwen2_tied_yarn": ("Qwen2", DENSE | {"tie_word_embeddings": True, "rope_scaling": YARN}),
  "llama3": ("Llama", DENSE | {"rope_theta": 5e5, "rope_scaling": LLAMA3, "rms_norm_eps": 1e-5}),
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


@functools.cache
def compiled(config):
  """One compiled function per architecture."""
  model = Transformer(config)
  return jax.jit(lambda weights, tokens_BT: logits(model, weights, tokens_BT))


def assert_equal_logits(ours: np.ndarray, theirs: np.ndarray) -> None:
  assert theirs.std() > 0.1  # a model that says something
  assert np.abs(ours - theirs).max() <= 1e-4 * max(1.0, theirs.std())


@pytest.mark.parametrize("case", CASES)
def test_their_checkpoint_has_their_logits_here(case, tmp_path):
  kind, fields = CASES[case]
  for seed in SEEDS:
    model = random_model(kind, fields, seed)
    folder = tmp_path / str(seed)
    model.save_pretrained(folder)
    config, weights, tokenizer = load_pretrained(folder)
    assert tokenizer is None and config.mtp_depth == 0
    tokens_BT = random_tokens(config.vocab, seed)
    ours = np.asarray(compiled(config)(weights, jnp.asarray(tokens_BT)))
    assert_equal_logits(ours, torch_logits(model, tokens_BT))


def our_random_weights(config, seed: int) -> Weights:
  """Weights all of whose leaves matter, without compiling an initialisation."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    noise = jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)
    name = str(path[-1])
    return 1 + 0.2 * noise if "norm" in name else noise * (1.0 if "bias" in name else 0.15)

  return jax.tree_util.tree_map_with_path(draw, abstract_weights(config))


def our_config(case: str, mtp_depth: int = 0):
  kind, fields = CASES[case]
  model_type = {"DeepseekV3": "deepseek_v3", "DeepseekV2": "deepseek_v2"}.get(kind, kind.lower())
  fields = fields | {"model_type": model_type, "num_nextn_predict_layers": mtp_depth}
  return config_json.from_json(fields)


def their_model(kind: str, folder):
  """transformers' model of a directory, which must find every tensor it needs there."""
  cls = getattr(transformers, f"{kind}ForCausalLM")
  model, report = cls.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
  assert not report["missing_keys"] and not report["mismatched_keys"]
  prefix = f"model.layers.{model.config.num_hidden_layers}."
  assert all(key.startswith(prefix) for key in report["unexpected_keys"])  # the MTP module's
  return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_our_checkpoint_has_our_logits_there(case, tmp_path):
  config = our_config(case)
  weights = our_random_weights(config, seed=0)
  save_pretrained(tmp_path / "out", config, weights)
  model = their_model(CASES[case][0], tmp_path / "out")
  tokens_BT = random_tokens(config.vocab, seed=0)
  ours = np.asarray(compiled(config)(weights, jnp.asarray(tokens_BT)))
  assert_equal_logits(ours, torch_logits(model, tokens_BT))


def test_mtp_module_predicts_what_theirs_does(tmp_path):
  """transformers loads our MTP module into its own and has the same logits from it."""
  modeling = pytest.importorskip("transformers.modeling_layers", reason="needs transformers 5.23")
  if not hasattr(modeling, "MtpModel"):
    pytest.skip("this version of transformers has no MTP modules")
  config = our_config("v3_yarn_mscale", mtp_depth=1)
  model = Transformer(config)
  positions_BT = jnp.broadcast_to(jnp.arange(TOKENS[1]), TOKENS)

  @jax.jit
  def ours(weights, tokens_BT):
    """Logits of the main model, and of the module for all but the last position."""
    span = (positions_BT, jnp.ones_like(positions_BT))
    hidden_BTD = forward(model, weights, tokens_BT, *span).hidden_BTD
    further_PBTD, _ = mtp_hidden(model, weights, hidden_BTD, tokens_BT, *span)
    head_DV = weights.params["head_DV"]
    return hidden_BTD @ head_DV, further_PBTD[0, :, :-1] @ head_DV

  for seed in SEEDS:
    folder = tmp_path / str(seed)
    weights = our_random_weights(config, seed)
    save_pretrained(folder, config, weights)
    theirs = their_model("DeepseekV3", folder)
    # The class knows only layer 61, that of the full model, as an MTP module's.
    theirs._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{config.layers}.*"]
    module = modeling.MtpModel.from_pretrained(theirs).eval()
    tokens_BT = random_tokens(config.vocab, seed)
    main, further = map(np.asarray, ours(weights, jnp.asarray(tokens_BT)))
    with torch.no_grad():
      tokens = torch.from_numpy(tokens_BT)
      hidden = theirs.model(tokens).last_hidden_state
      out = module.forward_layer(
        0, hidden[:, :-1], torch.arange(TOKENS[1] - 1)[None], None, input_ids=tokens[:, 1:]
      )
      assert_equal_logits(main, theirs.lm_head(hidden).numpy())
      assert_equal_logits(further, theirs.lm_head(out).numpy())
