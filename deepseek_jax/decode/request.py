"""What is asked of an engine, and what it gives back."""

import dataclasses
import math

import numpy as np

from deepseek_jax.config import ConfigError, require


@dataclasses.dataclass(frozen=True)
class SamplingParams:
  """How to sample. Temperature 0 is greedy; `top_p` 1 and `top_k` 0 are the whole distribution."""

  max_new: int = 128
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  stop: tuple[int, ...] = ()  # token ids, each of which ends a sample and belongs to it

  def __post_init__(self) -> None:
    require(self.max_new > 0, f"sampling.max_new is {self.max_new}; it must be positive.")
    require(
      math.isfinite(self.temperature) and self.temperature >= 0,
      f"sampling.temperature is {self.temperature}; it must be a number that is not negative.",
    )
    require(0 < self.top_p <= 1, f"sampling.top_p is {self.top_p}; it must be in (0, 1].")
    require(self.top_k >= 0, f"sampling.top_k is {self.top_k}; it must not be negative.")


@dataclasses.dataclass(eq=False)
class Request:
  """A prompt under way, and what it has been given so far."""

  number: int  # its place in the call
  prompt: list[int]
  params: SamplingParams
  key_W: np.ndarray  # uint32: the raw data of its key
  tokens: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)
  experts: list[np.ndarray] = dataclasses.field(default_factory=list)  # [L, T, A], in order
  finish: str = ""  # "" while it goes on, then "stop" or "length"
  told: int = 0  # tokens that were in an event already
  passes: int = 0  # of the model over this request's row, the prompt's not counted

  def take(self, tokens_T: np.ndarray, logprobs_T: np.ndarray) -> None:
    """Adds new tokens; ConfigError if one was chosen from logits that are not finite.

    Such logits show in the log-probability (`sampling.sample_token`), which comes with the token.
    """
    finite_T = np.isfinite(logprobs_T)
    if not finite_T.all():
      good = len(self.tokens) + int(finite_T.argmin())
      raise ConfigError(
        f"the model's logits are no finite numbers after prompt {self.number} and {good} new "
        "tokens: its weights are damaged or overflow in their dtype; use another checkpoint."
      )
    self.tokens += tokens_T.tolist()
    self.logprobs += logprobs_T.tolist()

  def keep(self, count: int) -> None:
    """Ends the request after its first `count` tokens."""
    del self.tokens[count:], self.logprobs[count:]
    self.finish = "stop"

  @property
  def ends_with_stop(self) -> bool:
    """Whether the last token is a stop token."""
    return bool(self.tokens) and self.tokens[-1] in self.params.stop

  @property
  def answer(self) -> list[int]:
    """The tokens without the stop token: what is decoded to text."""
    return self.tokens[: len(self.tokens) - self.ends_with_stop]

  def experts_LTA(self) -> np.ndarray:
    """Of prompt and tokens; -1 for the last token, which the model never saw."""
    met = np.concatenate(self.experts, axis=1)
    length = len(self.prompt) + len(self.tokens)
    met = met[:, : length - 1]
    return np.pad(met, ((0, 0), (0, length - met.shape[1]), (0, 0)), constant_values=-1)


@dataclasses.dataclass(frozen=True)
class Event:
  """New tokens of a request. `finish` is "" while it goes on, then "stop" or "length"."""

  request: int
  tokens: list[int]
  logprobs: list[float]
  finish: str


@dataclasses.dataclass(frozen=True)
class Samples:
  """Completions on the host, in the order of their prompts. T is the longest `max_new` here.

  `logprobs_BT` are the sampling model's own, before temperature and top-p. `experts[i]` holds
  the experts that sample i's inputs met, [layers, prompt + completion, A], -1 for the last token,
  which the model never saw; a model without experts has no layers in it.
  """

  tokens_BT: np.ndarray  # int32, 0 after the end
  logprobs_BT: np.ndarray  # float32, 0 after the end
  lengths_B: np.ndarray  # int32, a stop token included
  stopped_B: np.ndarray  # bool: ended by a stop token or string; false is truncated
  experts: tuple[np.ndarray, ...]  # int8, or int16 from 128 experts on
  stop_tokens_B: np.ndarray | None = None  # bool: the last token is a stop token; None as stopped
  passes: int = 0  # of the model over a row, prompts not counted: fewer than tokens with drafts

  def __len__(self) -> int:
    return len(self.lengths_B)

  def completion(self, i: int) -> list[int]:
    """Sample i's new tokens, the stop token included."""
    return self.tokens_BT[i, : self.lengths_B[i]].tolist()

  def answer(self, i: int) -> list[int]:
    """Sample i's new tokens without the stop token: what is decoded to text."""
    stopped_B = self.stopped_B if self.stop_tokens_B is None else self.stop_tokens_B
    return self.tokens_BT[i, : self.lengths_B[i] - stopped_B[i]].tolist()

  def take(self, chosen: np.ndarray) -> "Samples":
    """The samples of those numbers. `passes`, which is of all together, is 0 in it."""
    stops_B = self.stop_tokens_B
    return Samples(
      self.tokens_BT[chosen],
      self.logprobs_BT[chosen],
      self.lengths_B[chosen],
      self.stopped_B[chosen],
      tuple(self.experts[i] for i in chosen) if self.experts else (),
      None if stops_B is None else stops_B[chosen],
    )


def gather(requests: list[Request]) -> Samples:
  """The samples of finished requests."""
  width = max(r.params.max_new for r in requests)
  tokens_BT = np.zeros((len(requests), width), np.int32)
  logprobs_BT = np.zeros((len(requests), width), np.float32)
  for i, request in enumerate(requests):
    tokens_BT[i, : len(request.tokens)] = request.tokens
    logprobs_BT[i, : len(request.tokens)] = request.logprobs
  return Samples(
    tokens_BT,
    logprobs_BT,
    lengths_B=np.array([len(r.tokens) for r in requests], np.int32),
    stopped_B=np.array([r.finish == "stop" for r in requests]),
    experts=tuple(r.experts_LTA() for r in requests),
    passes=sum(r.passes for r in requests),
    stop_tokens_B=np.array([r.ends_with_stop for r in requests]),
  )
