"""A directory as Hugging Face keeps it, of a model of one layer that says one token for ever."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deepseek_jax.config import GQAConfig, ModelConfig, RopeConfig
from deepseek_jax.hub.safetensors import save_pretrained
from deepseek_jax.model.transformer import Transformer, init_weights

SPECIAL = ("<|bos|>", "<|end_of_text|>", "<|eot_id|>")  # 0, 1, 2
TAGS = ("<think>", "</think>")  # 3, 4
CONFIG = ModelConfig(
  vocab=512, d_model=16, layers=1, heads=2, dense_ff=16, max_context=256,
  attention=GQAConfig(kv_heads=1, head_dim=8), rope=RopeConfig(theta=1e4),
)  # fmt: skip
LLAMA3 = (
  "{{ bos_token }}{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ m.content ~ '<|eot_id|>' }}"
  "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def write_tokenizer(folder: Path, template: str | None = None, **config: Any) -> None:
  """A byte-level BPE with two merges; `config` goes into tokenizer_config.json."""
  import tokenizers
  from tokenizers import AddedToken, decoders, models, pre_tokenizers

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  vocab = {word: i for i, word in enumerate((*SPECIAL, *TAGS, *letters, "th", "the"))}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h"), ("th", "e")]))
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
  tokenizer.add_tokens([AddedToken(t, normalized=False) for t in TAGS])
  folder.mkdir(parents=True, exist_ok=True)
  tokenizer.save(str(folder / "tokenizer.json"))
  fields = {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0],
    "eos_token": SPECIAL[1], "add_bos_token": True, **config,
  }  # fmt: skip
  if template is not None:
    fields["chat_template"] = template
  write_json(folder / "tokenizer_config.json", fields)


def write_talker(folder: Path, says: int = 2, template: str | None = LLAMA3, **generation: Any):
  """The whole directory; `generation` is generation_config.json, none where it is empty."""
  weights = jax.jit(lambda key: init_weights(Transformer(CONFIG), key))(jax.random.key(0))
  params = jax.tree.map(jnp.zeros_like, weights.params)
  params["embed_VD"] = jnp.ones_like(params["embed_VD"])
  params["norm_D"] = jnp.ones_like(params["norm_D"])
  params["head_DV"] = params["head_DV"].at[:, says].set(1.0)
  save_pretrained(folder, CONFIG, dataclasses.replace(weights, params=params))
  write_tokenizer(folder, template)
  if generation:
    write_json(folder / "generation_config.json", generation)
  else:
    (folder / "generation_config.json").unlink()
  config = json.loads((folder / "config.json").read_text())
  write_json(folder / "config.json", config | {"bos_token_id": 0, "eos_token_id": 1})
  (folder / "SHA256SUMS").unlink()  # which are of other texts now


def write_json(path: Path, value: Any) -> None:
  path.write_text(json.dumps(value), encoding="utf-8")
