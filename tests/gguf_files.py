"""Writes small GGUF files as llama.cpp's converter does, by the `gguf` package's own writer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from deepseek_jax.config import ModelConfig

NAMES = {
  "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output",
  "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
  "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
  "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip
CONTROL, NORMAL, USER_DEFINED = 3, 1, 4
SPECIAL = ("<|begin|>", "<|end|>")
ALPHABET = "abcdefgh .Ġ0123456789<>|"
MERGES = ("a b", "ab c", "Ġ ab", "1 2", "e f")
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"


def vocabulary() -> tuple[list[str], list[int]]:
  """Tokens and their types: control, letters, what the merges make, and a tag."""
  letters = [*dict.fromkeys(ALPHABET.replace(" ", ""))]
  merged = [merge.replace(" ", "") for merge in MERGES]
  tokens = [*SPECIAL, *letters, *merged, "<think>"]
  types = [CONTROL] * len(SPECIAL) + [NORMAL] * (len(letters) + len(merged)) + [USER_DEFINED]
  return tokens, types


def metadata(config: ModelConfig) -> dict[str, Any]:
  """What describes the model; numbers become 32-bit ones, as the converter writes them."""
  return {
    "llama.block_count": config.layers,
    "llama.context_length": config.max_context,
    "llama.embedding_length": config.d_model,
    "llama.feed_forward_length": config.dense_ff,
    "llama.attention.head_count": config.heads,
    "llama.attention.head_count_kv": config.attention.kv_heads,
    "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
    "llama.attention.key_length": config.attention.head_dim,
    "llama.attention.value_length": config.attention.head_dim,
    "llama.rope.dimension_count": config.attention.head_dim,
    "llama.rope.freq_base": config.rope.theta,
    "llama.vocab_size": config.vocab,
  }


def tokenizer_metadata(pre: str = "smollm") -> dict[str, Any]:
  """What describes the tokenizer of `vocabulary`."""
  tokens, types = vocabulary()
  return {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": pre,
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": types,
    "tokenizer.ggml.merges": list(MERGES),
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.chat_template": TEMPLATE,
  }


def write(
  path: Path,
  fields: Mapping[str, Any],
  tensors: Mapping[str, np.ndarray],
  kinds: Mapping[str, Any] | None = None,
  architecture: str = "llama",
) -> None:
  """A file of Hugging Face's tensors, in float32 or quantised as `kinds` has it by name."""
  writer = gguf.GGUFWriter(str(path), architecture)
  for key, value in fields.items():
    add = {
      bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
      str: writer.add_string, list: writer.add_array,
    }[type(value)]  # fmt: skip
    add(key, value)
  for name, array in tensors.items():
    stored, kind = gguf_name(name), (kinds or {}).get(name)
    if stored.endswith(("attn_q.weight", "attn_k.weight")):
      array = paired(array, fields["llama.attention.key_length"])
    if kind is not None:
      array = gguf.quantize(array, kind)
    writer.add_tensor(stored, array, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def gguf_name(name: str) -> str:
  """GGUF's name of a tensor of a Hugging Face checkpoint; others stay as they are."""
  parts = name.split(".")
  if parts[-1] != "weight" or parts[-2] not in NAMES:
    return name
  layer = f"blk.{parts[2]}." if parts[1] == "layers" else ""
  return f"{layer}{NAMES[parts[-2]]}.weight"


def paired(array: np.ndarray, head_dim: int) -> np.ndarray:
  """Rows of a projection, per head from halves to pairs, as the converter permutes them."""
  order = np.arange(head_dim).reshape(2, head_dim // 2).T.ravel()
  heads = array.reshape(-1, head_dim, array.shape[1])
  return heads[:, order].reshape(array.shape)
