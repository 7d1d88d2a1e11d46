"""Contenders of the decoding benchmark: greedy, cached, on one checkpoint."""

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from experiments.benchmarks.contender import Turn


@dataclasses.dataclass(frozen=True)
class Reading:
  """What is decoded: rows of random prompts after a checkpoint."""

  directory: str
  batch: int
  prompt: int = 16

  def tokens_BT(self, vocab: int) -> np.ndarray:
    """The prompts, the same for every contender."""
    return np.random.default_rng(0).integers(10, vocab, (self.batch, self.prompt))


def deepseek_jax_turn(reading: Reading) -> Turn:
  """Our engine; a turn is one call for that many new tokens of every row, prompts included."""
  from deepseek_jax import api
  from deepseek_jax.decode.engine import SamplingParams, SlotEngine
  from deepseek_jax.decode.sampling import sample_keys

  model = api.load(reading.directory)
  engine = SlotEngine(model.transformer, slots=reading.batch)
  prompts = reading.tokens_BT(model.config.vocab).tolist()
  rows = np.arange(reading.batch)
  keys_B = sample_keys(0, 0, rows, 0 * rows)

  def turn(steps: int) -> float:
    start = time.perf_counter()
    engine.generate(model.weights, prompts, SamplingParams(steps, temperature=0.0), keys_B)
    return time.perf_counter() - start

  return turn


def transformers_turn(reading: Reading) -> Turn:
  """What one would write with transformers and torch."""
  import torch
  import transformers

  model = transformers.AutoModelForCausalLM.from_pretrained(
    reading.directory, dtype=torch.float32
  ).eval()
  ids = torch.from_numpy(reading.tokens_BT(model.config.vocab_size))
  mask = torch.ones_like(ids)

  def turn(steps: int) -> float:
    start = time.perf_counter()
    model.generate(
      ids, attention_mask=mask, max_new_tokens=steps, min_new_tokens=steps, do_sample=False,
      pad_token_id=0,
    )  # fmt: skip
    return time.perf_counter() - start

  return turn


CONTENDERS: dict[str, Callable[[Reading], Turn]] = {
  "deepseek_jax": deepseek_jax_turn,
  "transformers": transformers_turn,
}
