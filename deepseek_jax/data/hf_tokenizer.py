"""Hugging Face's tokenizer.json files; an extra: pip install 'deepseek-jax[hf]'."""

import functools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError
from deepseek_jax.data import chat_template
from deepseek_jax.data.special_tokens import TAGS
from deepseek_jax.data.tokenizer_files import read_json, refuse_pointer, write_json

_TOKENIZER, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_MAP, _GENERATION, _MODEL = "special_tokens_map.json", "generation_config.json", "config.json"
_READ = (_TOKENIZER, _CONFIG, _MAP, chat_template.FILE)
MORE_TEMPLATES = "additional_chat_templates"  # a folder of them
# What other programs read of a model beside its weights, and what its makers ask to go with it.
TRAVELS = re.compile(
  r"tokenizer\.(json|model)|(tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
  r"|merges\.txt|chat_template\.(jinja|json)|(LICEN[CS]E|NOTICE|COPYING)[\w.-]*"
)
_SPECIAL = ("bos", "eos", "pad")
SAID = "aqzq"  # stands for an answer; no template writes it by itself
_BEFORE = ("\n", "a", ".", "Z")  # what a text may go on from that does not melt into it


class HFTokenizer:
  """See `tokenizer.Tokenizer`: a `tokenizers.Tokenizer` with what the files beside it add.

  `begin` are the tokens that stand before a text, of which `bos_id` is the first. `template` is the
  chat template, None if there is none. `markers` are the spellings of the tokens
  that structure a text: special ones, and others such as `<｜User｜>`. `special_ids` are those of
  config.json or else the tokens named elsewhere, and `generation` is generation_config.json with
  all tokens that end an answer.
  """

  def __init__(self, tokenizer: Any, files: Mapping[str, dict[str, Any]], directory: Path):
    """`files` are the JSON files beside tokenizer.json, by name; any may be missing."""
    # What is cut off or filled up is for the caller to say, whatever the file was saved with.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    self._tokenizer = tokenizer
    self._directory = directory
    # The highest id counts, not the number of tokens: published vocabularies have gaps.
    self.vocab_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    config = {**files.get(_MAP, {}), **_given(files.get(_CONFIG, {}))}
    told = [files.get(name, {}) for name in (_GENERATION, _MODEL)]
    named = {name: self._named(config, f"{name}_token") for name in _SPECIAL}
    ends = [i for file in told for i in self._ids(file.get("eos_token_id"))]
    eos = named["eos"] if named["eos"] is not None else next(iter(ends), None)
    if eos is None:
      raise ConfigError(
        f"{directory} names no eos_token in tokenizer_config.json, and no eos_token_id in "
        "generation_config.json or config.json."
      )
    self.eos_id: int = eos
    self.pad_id: int = eos if named["pad"] is None else named["pad"]
    self.begin = self._begin(config, named["bos"])
    self.bos_id: int | None = self.begin[0] if self.begin else None
    self.template = chat_template.read_template(config, directory)
    added = tokenizer.get_added_tokens_decoder()
    self.markers: tuple[str, ...] = tuple(t.content for t in added.values() if _is_marker(t))
    # Whatever a file flags, a thought's tags are part of what a model says.
    self._spelled = {i: t.content for i, t in added.items()}
    self._silent = {i for i, t in added.items() if t.special and t.content not in TAGS}
    self._ends = tuple(dict.fromkeys([eos, *ends]))
    self.special_ids = {
      f"{name}_token_id": told[1].get(f"{name}_token_id", named[name] if name != "eos" else eos)
      for name in _SPECIAL
    }
    self._generation = dict(told[0])

  @classmethod
  def load(cls, directory: str | os.PathLike[str]) -> "HFTokenizer":
    """Reads tokenizer.json and, if there, the files beside it."""
    try:
      import tokenizers
    except ImportError as error:
      raise ConfigError(
        f"{directory} holds a Hugging Face tokenizer; pip install 'deepseek-jax[hf]' to read it."
      ) from error
    folder = Path(directory)
    refuse_pointer(folder / _TOKENIZER)
    try:
      tokenizer = tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER))
    except Exception as error:  # the library raises bare Exception
      raise ConfigError(f"{folder / _TOKENIZER} cannot be read ({error}).") from error
    names = (_CONFIG, _MAP, _GENERATION, _MODEL)
    return cls(tokenizer, {name: read_json(folder / name) for name in names}, folder)

  @functools.cached_property
  def turn_end(self) -> tuple[int, ...]:
    """What the template writes behind an answer, up to the next turn; empty without a template."""
    if self.template is None:
      return ()
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": SAID}]
    try:
      text = self.template.render(turns, add_generation_prompt=False)
    except ConfigError:  # it refuses such a conversation, or cannot be used here at all
      return ()
    _, found, behind = text.rpartition(SAID)
    return tuple(self.encode_on(behind)) if found else ()

  @functools.cached_property
  def stop_ids(self) -> tuple[int, ...]:
    """The tokens that end an answer: eos first, all that the files name, and the template's own."""
    own = next((i for i in self.turn_end if i in self._silent), None)
    return tuple(dict.fromkeys([*self._ends, *([] if own is None else [own])]))

  @property
  def generation(self) -> dict[str, Any]:
    """The content of generation_config.json: as it came, with every token that ends an answer."""
    fields = self._generation or self.special_ids
    ends = list(self.stop_ids)
    if set(self._ids(fields.get("eos_token_id"))) >= set(ends):
      return dict(fields)
    return {**fields, "eos_token_id": ends if len(ends) > 1 else ends[0]}

  @property
  def rules(self) -> dict[str, Any]:
    """All that decides the ids of a text."""
    parts = json.loads(self._tokenizer.to_str())
    names = ("added_tokens", "normalizer", "pre_tokenizer", "model")
    return {name: parts[name] for name in names}

  def _ids(self, value: Any) -> list[int]:
    """Ids of the vocabulary as a file names them, one or a list."""
    given = value if isinstance(value, list) else [value]
    whole = [i for i in given if isinstance(i, int) and not isinstance(i, bool)]
    return [i for i in whole if 0 <= i < self.vocab_size]

  def _begin(self, config: dict[str, Any], bos: int | None) -> tuple[int, ...]:
    """What stands before a text: what tokenizer.json puts there, and bos as the configuration says.

    That may be more than bos, such as GLM's `[gMASK]<sop>`, or a token that nothing names bos.
    """
    adds = config.get("add_bos_token")
    found = self._tokenizer.encode(self._tokenizer.id_to_token(self.eos_id))  # which it knows
    count = found.special_tokens_mask.index(0) if 0 in found.special_tokens_mask else 0
    begin = tuple(found.ids[:count])
    if adds is None or bos is None:
      return begin
    return (begin or (bos,)) if adds else tuple(i for i in begin if i != bos)

  def _named(self, config: dict[str, Any], field: str) -> int | None:
    """The id of a token that the configuration names, as text or as an object with `content`."""
    spelling = chat_template.token_text(config.get(field))
    return None if spelling is None else self.id_of(spelling)

  def encode(self, text: str) -> list[int]:
    """Tokens of the text; nothing is added."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def encode_on(self, text: str, before: Sequence[int] = ()) -> list[int]:
    """Tokens of a text that goes on from those `before` it, of which only the last is looked at.

    SentencePiece's tokenizers begin a text with a blank of their own. One that goes on has none,
    unless it follows a special token and the tokenizer puts blanks there as well.
    """
    if not self._begins_with_blank or not text:
      return self.encode(text)
    spelled = self._spelled.get(before[-1]) if before else None
    for start in _BEFORE if spelled is None else (spelled,):
      found = self._tokenizer.encode(start + text, add_special_tokens=False)
      count = sum(end <= len(start) for _, end in found.offsets)
      if all(begin >= len(start) for begin, _ in found.offsets[count:]):
        return found.ids[count:]
    return self.encode(text)

  @functools.cached_property
  def _begins_with_blank(self) -> bool:
    """Whether anything is put before a text as it is split."""
    normalizer, splitter, text = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer, "a"
    text = text if normalizer is None else normalizer.normalize_str(text)
    pieces = [(text, None)] if splitter is None else splitter.pre_tokenize_str(text)
    return sum(len(piece) for piece, _ in pieces) > 1

  def spelling(self, token: int) -> str:
    """How a text spells one of the added tokens; empty for any other."""
    return self._spelled.get(token, "")

  def decode(self, ids: Sequence[int]) -> str:
    """The text, without the tokens that the file flags as special, but with a thought's tags."""
    kept = [i for i in map(int, ids) if i not in self._silent]
    return self._tokenizer.decode(kept, skip_special_tokens=False)

  def id_of(self, token: str) -> int | None:
    """The id of a token, or None."""
    return self._tokenizer.token_to_id(token)

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Copies the files it was loaded from and those that go with them (see `TRAVELS`), as they are.

    Only generation_config.json is written anew.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for source in self._directory.glob("*"):
      if source.name in _READ or (TRAVELS.fullmatch(source.name) and self._holds(source)):
        _copy(source, folder / source.name)
    for source in (self._directory / MORE_TEMPLATES).glob("*.jinja"):
      if self._holds(source):
        _copy(source, folder / MORE_TEMPLATES / source.name)
    write_json(folder / _GENERATION, self.generation)

  def _holds(self, path: Path) -> bool:
    """Whether a file lies where it seems to, or in the cache of huggingface_hub, which links.

    There snapshots/REVISION/ holds links into blobs/. Any other might show what is not the model's.
    """
    root, place = self._directory.resolve(), path.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    return place.is_relative_to(root) or place.is_relative_to(blobs)


def _copy(source: Path, target: Path) -> None:
  """Copies a file to beside its place and renames it, unless it is that file."""
  if source.is_file() and source.resolve() != target.resolve():
    target.parent.mkdir(exist_ok=True)
    beside = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, beside)
    os.replace(beside, target)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that are not null, which would hide what another file says."""
  return {name: value for name, value in fields.items() if value is not None}


def _is_marker(token: Any) -> bool:
  """Whether an added token is more than a frequent run of characters, such as of blanks."""
  text = token.content
  return len(text) > 1 and (token.special or text.startswith("<") or "｜" in text)
