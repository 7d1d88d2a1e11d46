"""Engines: what turns prompts into samples.

`Engine` is the interface that rollouts, evaluation and generation are written against.
`StaticEngine` runs fixed batches, each until its last row has stopped.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.config import require
from deepseek_jax.decode import sampler
from deepseek_jax.decode.rows import Sampled
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.types import Weights


@dataclasses.dataclass(frozen=True)
class SamplingParams:
  """How to sample. Temperature 0 is greedy; `top_p` 1 is the whole distribution."""

  max_new: int = 128  # compiled in; the rest is traced
  temperature: float = 1.0
  top_p: float = 1.0
  stop: tuple[int, ...] = ()  # token ids, each of which ends a sample and belongs to it

  def __post_init__(self) -> None:
    require(self.max_new > 0, f"sampling.max_new is {self.max_new}; it must be positive.")
    require(
      self.temperature >= 0, f"sampling.temperature is {self.temperature}; it must not be negative."
    )
    require(0 < self.top_p <= 1, f"sampling.top_p is {self.top_p}; it must be in (0, 1].")


@dataclasses.dataclass(frozen=True)
class Samples:
  """Completions on the host, in the order of their prompts. T is `max_new` here.

  `logprobs_BT` are the sampling model's own, before temperature and top-p. `experts[i]` holds
  the experts that sample i's inputs met, [layers, prompt + completion, A], -1 for the last token,
  which the model never saw; a model without experts has no layers in it.
  """

  tokens_BT: np.ndarray  # int32, 0 after the end
  logprobs_BT: np.ndarray  # float32, 0 after the end
  lengths_B: np.ndarray  # int32, a stop token included
  stopped_B: np.ndarray  # bool: ended by a stop token; false is truncated
  experts: tuple[np.ndarray, ...]  # int8, or int16 from 128 experts on

  def __len__(self) -> int:
    return len(self.lengths_B)

  def completion(self, i: int) -> list[int]:
    """Sample i's new tokens, the stop token included."""
    return self.tokens_BT[i, : self.lengths_B[i]].tolist()

  def answer(self, i: int) -> list[int]:
    """Sample i's new tokens without the stop token: what is decoded to text."""
    return self.tokens_BT[i, : self.lengths_B[i] - self.stopped_B[i]].tolist()


class Engine(Protocol):
  """Samples completions of prompts."""

  def generate(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    keys_B: jax.Array,
  ) -> Samples:
    """One completion per prompt, each a function of its prompt and its key (`sample_keys`)."""


@dataclasses.dataclass(frozen=True)
class StaticEngine:
  """Fixed batches of `batch` rows; the last is filled with rows that are done from the start.

  Prompts are padded on the left to the longest of the call, rounded up to `prompt_multiple`, so
  that a job whose prompts vary a little compiles one program. Prompts are taken in order. On a
  mesh `batch` must be a multiple of the devices that split rows.
  """

  model: Transformer
  batch: int = 256
  prompt_multiple: int = 16

  def __post_init__(self) -> None:
    require(self.batch > 0, f"engine.batch is {self.batch}; it must be positive.")
    require(
      self.prompt_multiple > 0,
      f"engine.prompt_multiple is {self.prompt_multiple}; it must be positive.",
    )
    mesh = self.model.mesh
    rows = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    require(
      self.batch % rows == 0,
      f"engine.batch is {self.batch}; it must be a multiple of the {rows} devices that split rows.",
    )

  def generate(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    keys_B: jax.Array,
  ) -> Samples:
    """See `Engine.generate`. ConfigError names a prompt the model cannot take."""
    require(len(prompts) > 0, "There are no prompts to sample from.")
    require(
      len(prompts) == len(keys_B), f"There are {len(prompts)} prompts but {len(keys_B)} keys."
    )
    self._check(prompts, params)
    longest = max(map(len, prompts))
    slots = -(-longest // self.prompt_multiple) * self.prompt_multiple
    keys_BX = np.asarray(jax.random.key_data(keys_B))
    # A width of its own for every few stop tokens only, so that their number compiles nothing.
    stop_K = np.full(-(-len(params.stop) // 4) * 4 or 4, -1, np.int32)
    stop_K[: len(params.stop)] = params.stop
    scalars = (jnp.float32(params.temperature), jnp.float32(params.top_p))
    rule = sampler.Rule(*scalars, jnp.asarray(stop_K))
    waiting = [
      sampler.compiled(
        self.model,
        weights,
        self._pack(prompts[start : start + self.batch], keys_BX[start : start + self.batch], slots),
        rule,
        max_new=params.max_new,
      )
      for start in range(0, len(prompts), self.batch)
    ]
    return _gather(jax.device_get(waiting), [len(p) for p in prompts], slots)

  def _check(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> None:
    """Refuses prompts that are empty, too long, or hold unknown tokens."""
    config = self.model.config
    for i, prompt in enumerate(prompts):
      require(len(prompt) > 0, f"Prompt {i} is empty; it needs at least one token.")
      require(
        len(prompt) + params.max_new <= config.max_context,
        f"Prompt {i} has {len(prompt)} tokens, which with {params.max_new} new ones exceed the "
        f"model's context of {config.max_context}.",
      )
      require(
        min(prompt) >= 0 and max(prompt) < config.vocab,
        f"Prompt {i} holds a token outside the model's vocabulary of {config.vocab}.",
      )

  def _pack(
    self, prompts: Sequence[Sequence[int]], keys_BX: np.ndarray, slots: int
  ) -> sampler.Prompts:
    """One batch, padded on the left and, below, with rows that are done from the start."""
    tokens_BT = np.zeros((self.batch, slots), np.int32)
    real_BT = np.zeros((self.batch, slots), bool)
    real_BT[:, -1] = True  # a filling row attends to one token, so that it is never empty
    for row, prompt in enumerate(prompts):
      tokens_BT[row, slots - len(prompt) :] = prompt
      real_BT[row, slots - len(prompt) :] = True
    missing = self.batch - len(prompts)
    keys_BX = np.pad(keys_BX, ((0, missing), (0, 0)))
    active_B = np.arange(self.batch) < len(prompts)
    return sampler.Prompts(*map(jnp.asarray, (tokens_BT, real_BT, keys_BX, active_B)))


def _gather(batches: list[Sampled], prompt_lengths: list[int], slots: int) -> Samples:
  """Joins batches, drops filling rows, and cuts each sample's experts to its own tokens."""
  count = len(prompt_lengths)
  joined = {
    name: np.concatenate(parts, axis=1 if name == "experts_LBTA" else 0)
    for name, parts in zip(Sampled._fields, zip(*batches))
  }
  experts = tuple(
    joined["experts_LBTA"][:, i, slots - length : slots + joined["lengths_B"][i]]
    for i, length in enumerate(prompt_lengths)
  )
  return Samples(
    joined["tokens_BX"][:count],
    joined["logprobs_BX"][:count],
    joined["lengths_B"][:count],
    joined["stopped_B"][:count],
    experts,
  )
