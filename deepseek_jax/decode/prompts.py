"""Prefill on the host's side: prompts to caches, in buckets, in pieces, and common parts once.

Prompts that go in together are padded on the left to one of few widths, each twice the one before.
Beyond `piece` tokens they go in piece by piece. What all prompts of a call begin with is computed
once (`Prefix`); equal prompts, such as the samples of a group, are one prompt.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from deepseek_jax.decode.rows import regather
from deepseek_jax.decode.step import empty_cache, prefill
from deepseek_jax.hosts import arrays
from deepseek_jax.model.cache import DecodeCache
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.types import Weights

_GRAIN = 16  # the least width of prompts; the others are its doubles
_COMMON = 64  # a common beginning is kept apart by so many tokens at a time


def bucket(count: int, grain: int) -> int:
  """The smallest of grain * (1, 2, 4, 8, ...) that is not below `count`."""
  units = max(1, -(-count // grain))
  return grain << (units - 1).bit_length()


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
    length = min(same, shortest) // _COMMON * _COMMON
    if length == 0:
      return self
    prefix = tuple(first[:length])
    return dataclasses.replace(self, prefix=prefix, start=self([list(prefix)], 1))

  def width(self, prompts: Sequence[Sequence[int]]) -> int:
    """The slots that prompts take beyond the prefix, their padding included."""
    longest = max(map(len, prompts)) - len(self.prefix)
    width = bucket(longest, _GRAIN)
    return width if width <= self.piece else bucket(longest, self.piece)

  def __call__(self, prompts: Sequence[Sequence[int]], count: int) -> Prefilled:
    """Distinct prompts, each longer than the prefix, and nothing to fill up to `count`."""
    rests = [prompt[len(self.prefix) :] for prompt in prompts]
    tokens_NT, real_NT = _pad(rests, count, self.width(prompts))
    next_NT = np.pad(tokens_NT[:, 1:], ((0, 0), (0, 1)))
    count, width = tokens_NT.shape
    cache = self._begin(count, width)
    experts_LNTA: list[Any] = []
    for at in range(0, width, self.piece):
      cut = slice(at, at + self.piece)
      piece = (x[:, cut] for x in (tokens_NT, next_NT, real_NT))
      cache, hidden_ND, logits_NV, met = prefill(self.model, self.weights, cache, *piece)
      experts_LNTA.append(met)
    met_LNTA = np.concatenate(arrays.read(experts_LNTA), axis=2)
    before = [] if self.start is None else self.start.experts
    experts = [
      np.concatenate([*before, met_LNTA[:, n, width - len(rest) :]], axis=1)
      for n, rest in enumerate(rests)
    ]
    return Prefilled(cache, hidden_ND, logits_NV, experts)

  def _begin(self, count: int, width: int) -> DecodeCache:
    """A cache for prompts of `width` more tokens: empty, or with the prefix in every row."""
    if self.start is None:
      return empty_cache(self.model, count, width, self.drafting)
    slots = self.start.slots
    take_N = np.zeros(count, np.int32)
    return regather(self.start.cache, take_N, np.int32(slots), slots=slots + width)


def _pad(prompts: Sequence[Sequence[int]], count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Tokens and which are real [count, width], padded on the left; other rows hold nothing."""
  tokens_NT = np.zeros((count, width), np.int32)
  real_NT = np.zeros((count, width), bool)
  for row, prompt in enumerate(prompts):
    tokens_NT[row, width - len(prompt) :] = prompt
    real_NT[row, width - len(prompt) :] = True
  return tokens_NT, real_NT
