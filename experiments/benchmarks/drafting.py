"""Speculative against plain decoding, one row at a time, on text the model has not seen."""

import dataclasses
import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepseek_jax.api import Model
from deepseek_jax.config import require
from deepseek_jax.data.stdlib import StdlibSource
from deepseek_jax.decode.engine import Samples, SamplingParams, SlotEngine
from deepseek_jax.decode.sampling import sample_keys
from deepseek_jax.decode.step import empty_cache
from deepseek_jax.decode.weights import prepare
from deepseek_jax.model.transformer import forward
from experiments.benchmarks.timing import pair_ratio, stopwatch, take_turns

PROMPT, NEW, PROMPTS, GRAM = 64, 256, 48, 12
FEWEST = 4  # prompts that say something
_LOOPS = 0.2  # a continuation of which more repeats itself is left out


class Drafting:
  """A trained model with an MTP module and held-out prompts of the standard library."""

  def __init__(self, model: Model):
    require(model.config.mtp_depth > 0, "--model has no MTP module to draft with.")
    self._model, tokenizer = model, model.tokenizer
    require(tokenizer is not None, "--model has no tokenizer.")
    assert tokenizer is not None
    rng, source = np.random.default_rng(0), StdlibSource("heldout")
    self._prompts: list[list[int]] = []
    for number in rng.permutation(len(source)):
      tokens = tokenizer.encode(source[int(number)].text)
      if len(tokens) > 4 * PROMPT:
        start = int(rng.integers(0, len(tokens) - PROMPT))
        self._prompts.append(tokens[start : start + PROMPT])
    self._all = self._prompts = self._prompts[:PROMPTS]

  def measure(self, pairs: int, temperature: float, drafts: tuple[int, ...]) -> dict[str, Any]:
    """Speed-ups by number of drafts, predicted and measured; none where nearly all text loops."""
    plain = self._keep_prose(temperature)
    step = self._pass_seconds(1)
    result: dict[str, Any] = {
      "temperature": temperature,
      "prompts": len(self._prompts),
      "left_out": len(self._all) - len(self._prompts),
      "drafts": {},
    }
    for count in drafts if len(self._prompts) >= FEWEST else ():
      ahead = self._run(count, temperature)
      same = all(np.array_equal(a.tokens_BT, b.tokens_BT) for a, b in zip(plain, ahead))
      tokens = sum(int(s.lengths_B.sum()) - 1 for s in ahead)
      passes = sum(s.passes for s in ahead)
      turns = {
        "ahead": functools.partial(self._seconds, count, temperature),
        "plain": functools.partial(self._seconds, 0, temperature),
      }
      seconds = take_turns(turns, pairs)
      verify = self._pass_seconds(count + 1) / step
      whole = statistics.median(seconds["ahead"]) / passes
      one = statistics.median(seconds["plain"]) / tokens
      draft = max(whole / one - verify, 0.0) / count
      per_pass = tokens / passes
      result["drafts"][count] = {
        "same_tokens": same,
        "tokens_per_pass": per_pass,
        "acceptance": (per_pass - 1) / count,
        "cost_of_verifying": verify,
        "cost_of_a_draft": draft,
        "predicted": per_pass / (verify + count * draft),
        "speed_up": pair_ratio(seconds["ahead"], seconds["plain"]),
        "tokens_per_second": tokens / statistics.median(seconds["ahead"]),
      }
    return result

  def _seconds(self, drafts: int, temperature: float) -> float:
    return stopwatch(lambda: self._run(drafts, temperature))

  def _run(self, drafts: int, temperature: float) -> list[Samples]:
    """Every prompt on its own."""
    engine = SlotEngine(self._model.transformer, slots=1, steps=64, drafts=drafts)
    params = SamplingParams(NEW, temperature=temperature)
    return [
      engine.generate(
        self._model.weights, [prompt], params, sample_keys(0, 0, np.array([i]), np.zeros(1, int))
      )
      for i, prompt in enumerate(self._prompts)
    ]

  def _keep_prose(self, temperature: float) -> list[Samples]:
    """The plain samples of those prompts after which the model does not repeat itself."""
    self._prompts = self._all
    drawn = self._run(0, temperature)
    kept = [i for i, samples in enumerate(drawn) if not _loops(samples.completion(0))]
    self._prompts = [self._all[i] for i in kept]
    return self._run(0, temperature)  # again, for keys go by place

  def _pass_seconds(self, tokens: int, passes: int = 128) -> float:
    """Of one pass of the main model over `tokens` tokens, with a cache as in decoding."""
    model = self._model.transformer
    weights = prepare(model, self._model.weights)

    @functools.partial(jax.jit, donate_argnums=1)
    def run(weights: Any, cache: Any) -> jax.Array:
      def body(i: jax.Array, carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        cache, total = carry
        at = jnp.full((1, tokens), PROMPT) + jnp.arange(tokens)
        token = (total.astype(jnp.int32) % 2 + 5) * jnp.ones_like(at)
        out = forward(model, weights, token, at, jnp.ones_like(at), cache, absorbed=True)
        assert out.cache is not None  # for one went in
        return dataclasses.replace(out.cache, index=cache.index), total + out.hidden_BTD.sum()

      return jax.lax.fori_loop(0, passes, body, (cache, jnp.float32(0)))[1]

    slots = PROMPT + NEW

    def once() -> jax.Array:
      cache = empty_cache(model, 1, slots)
      return run(weights, dataclasses.replace(cache, index=jnp.int32(PROMPT)))

    stopwatch(once)
    return statistics.median(stopwatch(once) for _ in range(7)) / passes


def _loops(tokens: list[int]) -> bool:
  """Whether more than a fifth of the twelve-token pieces came before."""
  grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
  return bool(grams) and 1 - len(set(grams)) / len(grams) > _LOOPS
