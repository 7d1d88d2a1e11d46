"""The tokenizer that a GGUF file keeps in its metadata, as Hugging Face's tokenizer.json.

Byte-level BPE only (`tokenizer.ggml.model` gpt2), which Llama 3 and SmolLM2 use. How a text is cut
before merging has but a name in the file; the names known here are those of Llama models. For
others, and for SentencePiece, the model's own tokenizer.json is read from beside the file.
"""

import json
import os
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError, require
from deepseek_jax.data.hf_tokenizer import HFTokenizer
from deepseek_jax.data.tokenizer import Tokenizer, load_tokenizer
from deepseek_jax.data.tokenizer_files import write_json
from deepseek_jax.hub.gguf_header import Header

_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_CUTS: dict[str, list[dict[str, Any]]] = {  # by tokenizer.ggml.pre
  "gpt-2": [_BYTES | {"use_regex": True}],
  "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES | {"use_regex": True}],
  "llama-bpe": [
    {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False},
    _BYTES | {"use_regex": False},
  ],
}
_CUTS["default"] = _CUTS["gpt-2"]
_CUTS["llama3"] = _CUTS["llama-v3"] = _CUTS["llama-bpe"]


class GGUFTokenizer(HFTokenizer):
  """A Hugging Face tokenizer whose files are in memory until it is saved."""

  def __init__(self, content: dict[str, Any], files: dict[str, dict[str, Any]], path: Path):
    try:
      import tokenizers
    except ImportError as error:
      raise ConfigError(
        f"{path} holds a tokenizer; pip install 'deepseek-jax[hf]' to read it."
      ) from error
    try:
      tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises bare Exception
      raise ConfigError(f"the tokenizer in {path} cannot be built ({error}).") from error
    super().__init__(tokenizer, files, path)
    self._files = {"tokenizer.json": content, **files}

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes the files beside their places and renames them."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (self._files | {"generation_config.json": self.generation}).items():
      write_json(folder / name, value)


def gguf_tokenizer(header: Header) -> Tokenizer | None:
  """The tokenizer of the metadata, or that of the files beside; None if there is neither.

  Raises:
    ConfigError: the metadata hold one that cannot be built, and no tokenizer.json is beside.
  """
  model = header.get("tokenizer.ggml.model", str, "")
  cut = header.get("tokenizer.ggml.pre", str, "default")
  if model == "gpt2" and cut in _CUTS:
    bos = _named(header, "bos") if _adds_bos(header, cut) else None
    files = {
      "tokenizer_config.json": _config(header, bos),
      "generation_config.json": _generation(header),
    }
    return GGUFTokenizer(_content(header, cut, bos), files, header.path)
  if (header.path.parent / "tokenizer.json").is_file():
    return load_tokenizer(header.path.parent)
  kind = f"tokenizer.ggml.model = {model!r} and tokenizer.ggml.pre = {cut!r}"
  require(
    not model,
    f"{header.path} has {kind}, which is not supported; put the model's own tokenizer.json and "
    "tokenizer_config.json beside it.",
  )
  return None


def _adds_bos(header: Header, cut: str) -> bool:
  """Whether texts begin with bos; llama.cpp's default is that of the model's kind."""
  return header.get("tokenizer.ggml.add_bos_token", bool, _CUTS[cut] is _CUTS["llama-bpe"])


def _tokens(header: Header) -> list[str]:
  tokens = header.get("tokenizer.ggml.tokens", list)
  good = all(isinstance(token, str) for token in tokens) and len(set(tokens)) == len(tokens)
  require(good, f"{header.path} has tokenizer.ggml.tokens that are no different texts.")
  return tokens


def _named(header: Header, name: str) -> str | None:
  """The special token that the metadata name by its id."""
  key = f"tokenizer.ggml.{name}_token_id"
  number = header.get(key, int, -1)
  tokens = header.get("tokenizer.ggml.tokens", list)
  require(number < len(tokens), f"{header.path} has {key} = {number}, but {len(tokens)} tokens.")
  return tokens[number] if number >= 0 else None


def _content(header: Header, cut: str, bos: str | None) -> dict[str, Any]:
  """tokenizer.json."""
  tokens = _tokens(header)
  merges = [merge.split(" ") for merge in header.get("tokenizer.ggml.merges", list)]
  types = header.get("tokenizer.ggml.token_type", list, [])
  added = [
    {
      "id": number,
      "content": token,
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      "normalized": False,
      "special": kind == _CONTROL,
    }
    for number, (token, kind) in enumerate(zip(tokens, types))
    if kind in (_CONTROL, _USER_DEFINED)
  ]
  return {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": added,
    "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": _CUTS[cut]},
    "post_processor": None if bos is None else _begins_with(bos, tokens.index(bos)),
    "decoder": _BYTES | {"use_regex": True},
    "model": {
      "type": "BPE",
      "vocab": {token: number for number, token in enumerate(tokens)},
      "merges": merges,
      "ignore_merges": _CUTS[cut] is _CUTS["llama-bpe"],
    },
  }


def _begins_with(bos: str, number: int) -> dict[str, Any]:
  """The post-processor that puts bos before a text, for those who read the exported files."""
  single = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
  return {
    "type": "TemplateProcessing",
    "single": single,
    "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
    "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
  }


def _generation(header: Header) -> dict[str, Any]:
  """generation_config.json: every token that ends an answer, and how the makers sample."""
  ids = {
    name: header.get(f"tokenizer.ggml.{key}_token_id", int, -1)
    for name, key in (("bos", "bos"), ("pad", "padding"), ("eos", "eos"), ("eot", "eot"),
                      ("eom", "eom"))
  }  # fmt: skip
  fields: dict[str, Any] = {f"{n}_token_id": ids[n] for n in ("bos", "pad") if ids[n] >= 0}
  ends = list(dict.fromkeys(ids[name] for name in ("eos", "eot", "eom") if ids[name] >= 0))
  fields["eos_token_id"] = ends[0] if len(ends) == 1 else ends
  sampling = (("temperature", "temp", float), ("top_p", "top_p", float), ("top_k", "top_k", int))
  for name, key, kind in sampling:
    if (field := f"general.sampling.{key}") in header.metadata:
      fields[name] = header.get(field, kind)
  return fields


def _config(header: Header, bos: str | None) -> dict[str, Any]:
  """tokenizer_config.json."""
  eos = _named(header, "eos")
  require(eos is not None, f"{header.path} has no tokenizer.ggml.eos_token_id in its metadata.")
  config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": _named(header, "bos"),
    "eos_token": eos,
    "pad_token": _named(header, "padding"),
    "unk_token": _named(header, "unknown"),
    "add_bos_token": bos is not None,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": header.get("llama.context_length", int),
  }
  template = header.get("tokenizer.chat_template", str, "")
  if template:
    config["chat_template"] = template
  return {name: value for name, value in config.items() if value is not None}
