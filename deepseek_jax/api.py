"""What a notebook uses: load a trained model, ask it for logits, let it write, export it.

import deepseek_jax as ds
model = ds.load("runs/r1")             # a workdir, or a Hugging Face directory
model.generate("What is 3 + 4 * 2?", max_new=64)
model.chat("What is 3 + 4 * 2?")       # a Reply: thinking, answer, how it ended
model.logits(tokens_BT)                # float32 [B, T, V]
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax import compilation
from deepseek_jax.by_name import model_path
from deepseek_jax.config import ComputeConfig, ConfigError, ModelConfig, require
from deepseek_jax.data.asking import sampling
from deepseek_jax.data.conversation import Message, chat_prompt, stop_ids, text_prompt
from deepseek_jax.data.records import whole_text
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.decode.engine import SamplingParams, SlotEngine
from deepseek_jax.decode.given import items, number, texts_or_tokens, whole
from deepseek_jax.decode.reply import Reply, ReplyStream
from deepseek_jax.decode.sampling import sample_keys
from deepseek_jax.decode.text import stop_strings
from deepseek_jax.evaluate import charts
from deepseek_jax.hub.safetensors import is_pretrained, save_pretrained
from deepseek_jax.model import transformer
from deepseek_jax.paths import local_path
from deepseek_jax.recipe.stored import load_stage
from deepseek_jax.recipe.view import Picture, RunView, read_run
from deepseek_jax.rl.reward_model import load_reward_model
from deepseek_jax.train.start import load_stored
from deepseek_jax.train.workdir import read_config
from deepseek_jax.types import Params, Weights

__all__ = ["Model", "expert_chart", "load", "load_reward_model", "read_run", "run_r1"]

_LARGEST_BATCH = 64  # prompts sampled at once
_STREAMED = 8  # tokens at a time, when one reads along


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A trained model with its tokenizer, if it has one."""

  config: ModelConfig
  weights: Weights
  tokenizer: Tokenizer | None = None
  compute: ComputeConfig = ComputeConfig()
  _engines: list[SlotEngine] = dataclasses.field(default_factory=list, init=False, repr=False)

  @property
  def params(self) -> Params:
    """The parameters: a nested dict of arrays whose names end in their axes."""
    return self.weights.params

  @property
  def transformer(self) -> transformer.Transformer:
    """The module that computes with `weights`; see `model.transformer.forward`."""
    return transformer.Transformer(self.config, self.compute)

  def logits(self, tokens_BT: Any) -> np.ndarray:
    """Float32 logits [B, T, V] of whole rows of tokens; compiles once per shape."""
    try:
      tokens_BT = np.asarray(tokens_BT)
    except ValueError as error:
      raise ConfigError("rows of tokens are not of one length; give integers [B, T].") from error
    require(
      tokens_BT.ndim == 2 and np.issubdtype(tokens_BT.dtype, np.integer) and tokens_BT.size > 0,
      f"tokens have shape {tokens_BT.shape} and type {tokens_BT.dtype}; give integers [B, T].",
    )
    require(
      tokens_BT.min() >= 0 and tokens_BT.max() < self.config.vocab,
      f"a token lies outside the model's vocabulary of {self.config.vocab}.",
    )
    require(
      tokens_BT.shape[1] <= self.config.max_context,
      f"rows have {tokens_BT.shape[1]} tokens; the model's context is {self.config.max_context}.",
    )
    return np.asarray(_compiled_logits(self.transformer)(self.weights, tokens_BT.astype(np.int32)))

  def generate(
    self,
    prompts: str | Sequence[str] | Sequence[Sequence[int]],
    max_new: int = 128,
    temperature: float | None = 0.0,
    top_p: float | None = 1.0,
    seed: int = 0,
    top_k: int | None = 0,
    stop: str | Sequence[str] | None = (),
  ) -> Any:
    """What the model writes after each prompt, until its end token or `max_new` tokens.

    A text gives a text, a list of texts a list of texts, a list of lists of token ids a list of
    lists of token ids. Greedy unless `temperature` is set; a sample depends on `seed` and on its
    prompt and place in the list, not on the prompts beside it. It ends before any text in `stop`.
    None is the default of whatever may be it.

    Raises:
      ConfigError: a prompt or a number is not what it should be, or does not fit the model.
    """
    if isinstance(prompts, str):
      return self.generate([prompts], max_new, temperature, top_p, seed, top_k, stop)[0]
    params = self.sampling(max_new, temperature, top_p, top_k)
    given = texts_or_tokens(prompts)
    tokens = [self._encode(p) if isinstance(p, str) else p for p in given]
    places = np.arange(len(given))
    keys_B = sample_keys(whole("seed", seed), 0, places, 0 * places)
    if not given:
      return []
    batch = min(1 << (len(given) - 1).bit_length(), _LARGEST_BATCH)
    engine = self._engine(batch, steps=32)
    halt = stop_strings(self.tokenizer, stop)
    samples = engine.generate(self.weights, tokens, params, keys_B, halt)
    answers = [samples.answer(i) for i in range(len(samples))]
    if not isinstance(given[0], str):
      return answers
    assert self.tokenizer is not None
    ended = {} if halt is None else halt.texts
    decode = self.tokenizer.decode
    return [ended[i] if i in ended else decode(answer) for i, answer in enumerate(answers)]

  def stream(
    self,
    prompt: str | Sequence[Message],
    max_new: int = 1024,
    temperature: float | None = 0.0,
    top_p: float | None = 1.0,
    seed: int = 0,
    top_k: int | None = 0,
    stop: str | Sequence[str] | None = (),
    think: bool | None = None,
  ) -> ReplyStream:
    """The reply to a text as it is, or to a conversation, piece by piece; see `chat`."""
    require(self.tokenizer is not None, "the model has no tokenizer to read and write text with.")
    assert self.tokenizer is not None
    params = self.sampling(max_new, temperature, top_p, top_k)
    keys_B = sample_keys(whole("seed", seed), 0, np.zeros(1, int), np.zeros(1, int))
    require(
      think in (None, True, False),
      f"think is {think!r:.100}; give True, False, or None for what the template does.",
    )
    if isinstance(prompt, str):
      asked = text_prompt(self.tokenizer, whole_text(prompt))
    else:
      asked = chat_prompt(self.tokenizer, [_whole(m) for m in items(prompt) or []], think)
    room = self.config.max_context - len(asked.tokens)
    require(
      room > 0,
      f"the prompt has {len(asked.tokens)} tokens, which leave no room in the model's context of "
      f"{self.config.max_context}; shorten it, or start a new conversation.",
    )
    params = dataclasses.replace(params, max_new=min(params.max_new, room))
    halt = stop_strings(self.tokenizer, stop)
    engine = self._engine(1, steps=_STREAMED)
    events = engine.stream(self.weights, [asked.tokens], params, keys_B, halt)
    return ReplyStream(events, self.tokenizer, asked.opened, halt)

  def chat(
    self,
    messages: str | Sequence[Message],
    max_new: int = 1024,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int = 0,
    top_k: int | None = None,
    stop: str | Sequence[str] | None = (),
    think: bool | None = None,
  ) -> Reply:
    """The reply to a conversation, [{"role": "user", "content": ...}, ...], or to one question.

    The conversation is told by the tokenizer's chat template; see `data.conversation`, also for
    `think`. A reply has at most `max_new` tokens, and as many as the context has room for. The
    sampling that is not set is the model's own; see `asking.sampling_defaults`.
    """
    how = sampling(self.tokenizer, temperature=temperature, top_p=top_p, top_k=top_k)
    if isinstance(messages, str):
      messages = [{"role": "user", "content": messages}]
    return self.stream(messages, max_new, seed=seed, stop=stop, think=think, **how).reply

  def expert_load(self, texts: str | Sequence[str]) -> np.ndarray:
    """How many tokens of the texts each expert gets, [expert layers, E].

    ConfigError for a model without experts.
    """
    require(self.config.moe is not None, "the model has no experts to load.")
    given = [texts] if isinstance(texts, str) else items(texts)
    require(
      bool(given) and all(isinstance(text, str) for text in given or []),
      f"texts are {texts!r:.100}; give at least one text.",
    )
    rows = [self._encode(text) for text in given or []]
    width = max(map(len, rows))
    require(
      0 < width <= self.config.max_context,
      f"the longest text has {width} tokens; the model's context is {self.config.max_context}.",
    )
    tokens_BT = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
    segments_BT = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int32)
    positions_BT = np.broadcast_to(np.arange(width, dtype=np.int32), tokens_BT.shape)
    span = (jnp.asarray(positions_BT), jnp.asarray(segments_BT))
    out = transformer.forward(self.transformer, self.weights, jnp.asarray(tokens_BT), *span)
    return np.asarray(out.routing.load_LE)

  def save(
    self,
    directory: str | os.PathLike[str],
    dtype: str = "float32",
    shard_bytes: float = 5e9,
  ) -> None:
    """Writes a Hugging Face directory in float32, bfloat16 or fp8; see `save_pretrained`."""
    folder = local_path(directory)
    size = number("shard_bytes", shard_bytes)
    save_pretrained(folder, self.config, self.weights, self.tokenizer, dtype, size)

  def _engine(self, slots: int, steps: int) -> SlotEngine:
    """The engine of the last call if it fits, for it holds the weights prepared."""
    engine = SlotEngine(self.transformer, slots, steps)
    if self._engines[-1:] != [engine]:
      self._engines[:] = [engine]
    return self._engines[-1]

  def sampling(
    self, max_new: int, temperature: float | None, top_p: float | None, top_k: int | None
  ) -> SamplingParams:
    """How to sample, checked; None is greedy, and the whole distribution."""
    return SamplingParams(
      whole("max_new", max_new),
      number("temperature", 0.0 if temperature is None else temperature),
      number("top_p", 1.0 if top_p is None else top_p),
      whole("top_k", 0 if top_k is None else top_k),
      stop_ids(self.tokenizer),
    )

  def _encode(self, prompt: str) -> list[int]:
    require(self.tokenizer is not None, "the model has no tokenizer; give prompts as token ids.")
    assert self.tokenizer is not None
    return text_prompt(self.tokenizer, whole_text(prompt)).tokens


def load(
  path: str | os.PathLike[str],
  stage: str = "",
  compute: ComputeConfig | None = None,
  dtype: str = "float32",
) -> Model:
  """The model in a workdir, a Hugging Face directory or a GGUF file, or the Hub's of that name.

  FP8 weights of a Hugging Face directory stay FP8. Others become float32, or with dtype "stored"
  stay bfloat16 where the files have that.

  Of the R1 recipe's workdir it is that of `stage`, without which it is r1, or while that is not
  finished the last finished stage of the same model. `compute` changes how it is run. Programs that
  the process compiles from here on are kept in a folder (see `compilation.use_cache`), and what
  takes longer than a second to compile is told on standard error.

  Raises:
    ConfigError: there is no such directory, it holds no model yet, or not what it should hold.
  """
  compilation.use_cache()
  compilation.watch().tell()
  folder = model_path(path)
  compute = compute or ComputeConfig()
  recipe = folder.is_dir() and not is_pretrained(folder) and "student" in read_config(folder)
  if not recipe:
    require(not stage, f"{folder} holds one model, not stages; leave out stage {stage!r}.")
    config, weights, tokenizer = load_stored(folder, dtype=dtype)
    return Model(config, jax.device_put(weights), tokenizer, compute)
  config, weights, tokenizer = load_stage(folder, stage)
  return Model(config, jax.device_put(weights), tokenizer, compute)


def _whole(message: Any) -> Any:
  """A message without halves of characters; what is no message stays as it is."""
  content = message.get("content") if isinstance(message, dict) else None
  return {**message, "content": whole_text(content)} if isinstance(content, str) else message


@functools.cache
def _compiled_logits(model: transformer.Transformer) -> Callable[..., jax.Array]:
  return jax.jit(lambda weights, tokens_BT: transformer.logits(model, weights, tokens_BT))


def run_r1(config: Any, directory: str | os.PathLike[str]) -> RunView:
  """Runs the recipe of a config (`configs.r1_tiny.get_config()`) in a workdir, and reads it."""
  from deepseek_jax.recipe import job  # which others need not wait for

  compilation.use_cache()
  compilation.watch().tell()
  job.run_r1(job.r1_config(config.to_dict()), local_path(directory))
  return read_run(local_path(directory))


def expert_chart(load_LE: np.ndarray) -> Picture:
  """A picture of `Model.expert_load`: each expert's load over its layer's mean."""
  return Picture(charts.expert_map(load_LE))
