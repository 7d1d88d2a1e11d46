"""Continuous against static batches, and prompts that have something in common."""

import dataclasses
import statistics
from typing import Any

import jax
import numpy as np

from deepseek_jax.config import ModelConfig
from deepseek_jax.decode.engine import SamplingParams, SlotEngine
from deepseek_jax.decode.sampling import sample_keys
from deepseek_jax.model.transformer import Transformer, init_weights
from experiments.benchmarks.timing import pair_ratio, stopwatch, take_turns

SLOTS, REQUESTS, SHORTEST, LONGEST, PROMPT = 16, 64, 8, 512, 32


class Batching:
  """An engine with random weights, and requests whose lengths are log-uniform."""

  def __init__(self, config: ModelConfig):
    model = Transformer(dataclasses.replace(config, mtp_depth=0))
    self._weights = jax.jit(lambda key: init_weights(model, key))(jax.random.key(0))
    self._engine, self._vocab = SlotEngine(model, slots=SLOTS), config.vocab
    rng = np.random.default_rng(0)
    self.lengths = np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST + 1), REQUESTS)).astype(int)
    self._prompts = rng.integers(10, self._vocab, (REQUESTS, PROMPT)).tolist()

  def measure(self, pairs: int) -> dict[str, Any]:
    """Tokens per second of both, their ratio, and what shared prompts cost."""
    kept = int(self.lengths.sum())
    static, continuous = self._static(), self._continuous()  # compiles everything
    same = sum(a == b for a, b in zip(static, continuous))  # less where rounding breaks a tie
    turns = {
      "continuous": lambda: stopwatch(self._continuous),
      "static": lambda: stopwatch(self._static),
    }
    seconds = take_turns(turns, pairs)
    return {
      "requests": REQUESTS,
      "tokens": kept,
      "same_requests": same,
      "tokens_per_second": {n: round(kept / statistics.median(s), 1) for n, s in seconds.items()},
      "ratio": pair_ratio(seconds["continuous"], seconds["static"]),
      "perfect": self._perfect(),
      "prompts": self._sharing(pairs),
    }

  def _perfect(self) -> float:
    """The ratio if every row of every step gave a token that is kept."""
    steps = sum(self.lengths[i : i + SLOTS].max() for i in range(0, REQUESTS, SLOTS))
    return float(steps * SLOTS / self.lengths.sum())

  def _draw(self, numbers: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    each = [SamplingParams(int(n), temperature=0.0) for n in lengths]
    keys_B = sample_keys(0, 0, numbers, 0 * numbers)
    prompts = [self._prompts[i] for i in numbers]
    samples = self._engine.generate(self._weights, prompts, each, keys_B)
    return [samples.completion(i) for i in range(len(samples))]

  def _continuous(self) -> list[list[int]]:
    """Every request with its own length, all in one call."""
    return self._draw(np.arange(REQUESTS), self.lengths)

  def _static(self) -> list[list[int]]:
    """Batches in order, each run to its longest; what lies beyond a request's length is dropped."""
    done: list[list[int]] = []
    for start in range(0, REQUESTS, SLOTS):
      numbers = np.arange(start, start + SLOTS)
      longest = np.full(SLOTS, self.lengths[numbers].max())
      drawn = self._draw(numbers, longest)
      done += [tokens[: self.lengths[i]] for i, tokens in zip(numbers, drawn)]
    return done

  def _sharing(self, pairs: int) -> dict[str, float]:
    """Median seconds to the first token of sixteen prompts of 512 tokens, by what they share."""
    rng = np.random.default_rng(1)
    apart = rng.integers(10, self._vocab, (SLOTS, 512))
    begun = apart.copy()
    begun[:, :448] = apart[0, :448]
    kinds = {"nothing": apart, "first 448 tokens": begun, "all": np.tile(apart[:1], (SLOTS, 1))}
    first = SamplingParams(1, temperature=0.0)
    keys_B = sample_keys(0, 0, np.arange(SLOTS), np.zeros(SLOTS, np.int32))

    def run(prompts: np.ndarray) -> Any:
      return self._engine.generate(self._weights, prompts.tolist(), first, keys_B)

    for prompts in kinds.values():
      run(prompts)
    turns = {name: lambda p=p: stopwatch(lambda: run(p)) for name, p in kinds.items()}
    return {name: statistics.median(s) for name, s in take_turns(turns, pairs).items()}
