"""Prefill on the host's side: prompts to caches, in buckets, in pieces, and common parts once.

Prompts that go in together are padded on the left to one of few lengths. Beyond `piece` tokens they
go in piece by piece. What all prompts of a call begin with is computed once (`Prefix`); equal
prompts, such as the samples of a group, are one prompt.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.decode.rows import regather
from deepseek_jax.decode.step import empty_cache, prefill
from deepseek_jax.model.cache import DecodeCache
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.types import Weights

_GRAIN = 16  # prompt lengths are multiples of it
_WORTH = 64  # a common beginning of fewer tokens is not kept apart


def bucket(count: int, grain: int) -> int:
  """The smallest of grain * (1, 2, 3, 4, 6, 8, 12, 16, ...) that is not below `count`."""
  units = max(1, -(-count // grain))
  power = 1 << (units.bit_length() - 1)
  if units == power:
    return units * grain
  return grain * (power * 3 // 2 if 2 * units <= 3 * power else power * 2)


@dataclasses.dataclass(frozen=True)
class Prefilled:
  """Prompts in a cache, right-aligned; what follows each, and the experts met on the way."""

  cache: DecodeCache
  hidden_ND: jax.Array  # of the last token
  logits_NV: jax.Array
  experts: list[np.ndarray]  # [L, T, A] of each prompt

  @property
  def slots(self) -> int:
    """Of the cache."""
    return self.cache.span.positions_BT.shape[1]


@dataclasses.dataclass(frozen=True)
class Prefiller:
  """Computes prompts with one model and one set of weights."""

  model: Transformer
  weights: Weights
  piece: int  # tokens of a prompt that go in at once
  drafting: bool = False
  prefix: tuple[int, ...] = ()  # what every prompt begins with
  start: Prefilled | None = None  # the prefix, computed

  def sharing(self, prompts: Sequence[Sequence[int]]) -> "Prefiller":
    """The same with the common beginning of the prompts computed, if it is worth it."""
    ordered = sorted(map(tuple, prompts))  # of which the first and the last differ soonest
    first, last = ordered[0], ordered[-1]
    if first == last:
      return self
    shortest = min(map(len, prompts)) - 1
    same = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), shortest)
    length = min(same, shortest)
    if length < _WORTH:
      return self
    prefix = tuple(first[:length])
    return dataclasses.replace(self, prefix=prefix, start=self([list(prefix)]))

  def __call__(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
    """Distinct prompts, each longer than the prefix."""
    done = len(self.prefix)
    rests = [prompt[done:] for prompt in prompts]
    tokens_NT, real_NT = self._pad(rests)
    next_NT = np.pad(tokens_NT[:, 1:], ((0, 0), (0, 1)))
    count, width = tokens_NT.shape
    cache = self._begin(count, width)
    experts_LNTA: list[Any] = []
    for at in range(0, width, self.piece):
      cut = slice(at, at + self.piece)
      piece = (jnp.asarray(x[:, cut]) for x in (tokens_NT, next_NT, real_NT))
      cache, hidden_ND, logits_NV, met = prefill(self.model, self.weights, cache, *piece)
      experts_LNTA.append(met)
    met_LNTA = np.concatenate(jax.device_get(experts_LNTA), axis=2)
    before = [] if self.start is None else self.start.experts
    experts = [
      np.concatenate([*before, met_LNTA[:, n, width - len(rest) :]], axis=1)
      for n, rest in enumerate(rests)
    ]
    return Prefilled(cache, hidden_ND, logits_NV, experts)

  def _pad(self, prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and which are real, padded on the left; rows beyond the prompts hold nothing."""
    longest = max(map(len, prompts))
    width = bucket(longest, _GRAIN)
    if width > self.piece:
      width = bucket(-(-longest // self.piece), 1) * self.piece
    count = 1 << (len(prompts) - 1).bit_length()
    tokens_NT = np.zeros((count, width), np.int32)
    real_NT = np.zeros((count, width), bool)
    for row, prompt in enumerate(prompts):
      tokens_NT[row, width - len(prompt) :] = prompt
      real_NT[row, width - len(prompt) :] = True
    return tokens_NT, real_NT

  def _begin(self, count: int, width: int) -> DecodeCache:
    """A cache for prompts of `width` more tokens: empty, or with the prefix in every row."""
    if self.start is None:
      return empty_cache(self.model, count, width, self.drafting)
    slots = self.start.slots
    take_N = jnp.zeros(count, jnp.int32)
    return regather(self.start.cache, take_N, jnp.int32(slots), slots=slots + width)
