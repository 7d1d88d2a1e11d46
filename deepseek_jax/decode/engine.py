"""The engine: what turns prompts into samples, for generation, chat, evaluation and rollouts alike.

`Engine` is the interface they are written against; `SlotEngine` is the one there is.
"""

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from deepseek_jax.config import require
from deepseek_jax.decode.request import Event, Request, Samples, SamplingParams, gather
from deepseek_jax.decode.schedule import Halt, Schedule
from deepseek_jax.decode.weights import prepare
from deepseek_jax.model.transformer import Transformer
from deepseek_jax.sharding import row_devices
from deepseek_jax.types import Weights

__all__ = ["Engine", "Event", "Samples", "SamplingParams", "SlotEngine"]

Params = SamplingParams | Sequence[SamplingParams]
# (number, its tokens without the stop token, whether it stopped): told as soon as a request ends.
Ended = Callable[[int, list[int], bool], None]


class Engine(Protocol):
  """Samples completions of prompts."""

  def generate(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    params: Params,
    keys_B: jax.Array,
    *,
    ended: Ended | None = None,
  ) -> Samples:
    """One completion per prompt, each a function of its prompt and its key (`sample_keys`).

    `ended` is told of each completion as it ends, while others go on.
    """


@dataclasses.dataclass(frozen=True)
class SlotEngine:
  """Continuous batching: up to `slots` requests at a time, each leaving as it ends.

  Prompts go in as they get a row, equal ones computed once, long ones in pieces, and what all of a
  call begin with once. Rows and cache come in few sizes, so that requests of any length enter and
  leave without compiling. On a mesh `slots` must be a multiple of the devices that split rows.
  """

  model: Transformer
  slots: int = 256
  steps: int = 32  # tokens per row between two looks at the host's side
  piece: int = 512  # tokens of a prompt that are computed at once
  drafts: int = 0  # tokens that the MTP module guesses ahead: see decode/speculative.py
  _held: dict[str, Any] = dataclasses.field(
    default_factory=dict, init=False, repr=False, compare=False
  )

  def __post_init__(self) -> None:
    for name in ("slots", "steps", "piece"):
      value = getattr(self, name)
      require(value > 0, f"engine.{name} is {value}; it must be positive.")
    require(
      self.drafts == 0 or (self.drafts > 0 and self.model.config.mtp_depth > 0),
      f"engine.drafts is {self.drafts}; it must be 0, or positive with a model that has an MTP "
      "module.",
    )
    require(
      self.slots % self._devices == 0,
      f"engine.slots is {self.slots}; it must be a multiple of the {self._devices} devices that "
      "split rows.",
    )

  @property
  def _devices(self) -> int:
    """How many of the mesh split rows."""
    return row_devices(self.model.mesh)

  @property
  def _sizes(self) -> list[int]:
    """The numbers of rows that are compiled: each a quarter of the one before."""
    sizes = [self.slots]
    while sizes[-1] % 4 == 0 and sizes[-1] // 4 % self._devices == 0:
      sizes.append(sizes[-1] // 4)
    return sizes

  def generate(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    params: Params,
    keys_B: jax.Array,
    halt: Halt | None = None,
    *,
    ended: Ended | None = None,
  ) -> Samples:
    """See `Engine.generate`; `params` are of all prompts or one for each."""
    requests = self._requests(prompts, params, keys_B)
    for event in self._schedule(weights, requests, halt).run():
      if event.finish and ended is not None:
        ended(event.request, requests[event.request].answer, event.finish == "stop")
    return gather(requests)

  def stream(
    self,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    params: Params,
    keys_B: jax.Array,
    halt: Halt | None = None,
  ) -> Iterator[Event]:
    """The same samples as they come, some tokens of some request at a time.

    `halt(request, its tokens so far)` may end a request: it returns how many tokens to keep, or
    None to go on.
    """
    requests = self._requests(prompts, params, keys_B)
    return self._schedule(weights, requests, halt).run()

  def _schedule(self, weights: Weights, requests: list[Request], halt: Halt | None) -> Schedule:
    return Schedule(
      self.model,
      self._prepared(weights),
      requests,
      self._sizes,
      self.steps,
      self.piece,
      self.drafts,
      halt,
    )

  def _prepared(self, weights: Weights) -> Weights:
    """The weights as steps read them; those of the last call are kept for as long as it lives."""
    ref = self._held.get("of")
    if ref is None or ref() is not weights:
      self._held.clear()
      self._held["prepared"] = prepare(self.model, weights)
      self._held["of"] = weakref.ref(weights, lambda _: self._held.clear())
    return self._held["prepared"]

  def _requests(
    self, prompts: Sequence[Sequence[int]], params: Params, keys_B: jax.Array
  ) -> list[Request]:
    """One request per prompt; ConfigError names a prompt the model cannot take."""
    require(len(prompts) > 0, "There are no prompts to sample from.")
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
    require(
      len(prompts) == len(keys_B) == len(each),
      f"There are {len(prompts)} prompts but {len(keys_B)} keys and {len(each)} parameters.",
    )
    for i, (prompt, own) in enumerate(zip(prompts, each)):
      self._check(i, prompt, own)
    keys_BW = np.asarray(jax.random.key_data(keys_B))
    return [
      Request(i, list(prompt), own, key_W)
      for i, (prompt, own, key_W) in enumerate(zip(prompts, each, keys_BW))
    ]

  def _check(self, number: int, prompt: Sequence[int], params: SamplingParams) -> None:
    """Refuses a prompt that is empty, too long, or holds unknown tokens."""
    config = self.model.config
    require(len(prompt) > 0, f"Prompt {number} is empty; it needs at least one token.")
    require(
      len(prompt) + params.max_new <= config.max_context,
      f"Prompt {number} has {len(prompt)} tokens, which with {params.max_new} new ones exceed the "
      f"model's context of {config.max_context}.",
    )
    require(
      min(prompt) >= 0 and max(prompt) < config.vocab,
      f"Prompt {number} holds a token outside the model's vocabulary of {config.vocab}.",
    )
