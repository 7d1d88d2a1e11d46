"""Whole GRPO steps of ours and of another's, turn by turn on one checkpoint."""

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Sequence
from typing import Any

import jax

from deepseek_jax import api
from deepseek_jax.config import require
from deepseek_jax.hub.safetensors import is_pretrained, save_pretrained
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.presets import preset
from experiments.benchmarks.contender import Contender
from experiments.benchmarks.reinforcers import CONTENDERS, Lesson, Seconds
from experiments.benchmarks.timing import pair_ratio, take_turns

_WARMUP = 2  # steps after the first: the heap takes some to settle


def measure(model: str, against: str, pairs: int) -> dict[str, Any]:
  """Seconds of a step, medians of `pairs` turns, and how many times faster ours is."""
  names = ["deepseek_jax", *([against] if against else [])]
  contenders = {}
  with tempfile.TemporaryDirectory() as folder:
    lesson = _lesson(model, folder)
    try:
      for name in names:
        contenders[name] = Contender(CONTENDERS[name], lesson, warmup=1)
      for contender in contenders.values():
        contender(_WARMUP)
      turns = {name: lambda c=c: c(1) for name, c in contenders.items()}
      seconds = take_turns(turns, pairs)
    finally:
      for contender in contenders.values():
        contender.close()
  medians = {n: _medians(contenders[n].first, seconds[n]) for n in names}
  result: dict[str, Any] = {
    "lesson": dataclasses.asdict(lesson) | {"directory": model},
    "seconds": medians,
  }
  if against:
    ours, theirs = ([step.whole for step in seconds[name]] for name in names)
    result["ratio"] = pair_ratio(ours, theirs)
  return result


def _medians(first: Seconds, steps: Sequence[Seconds]) -> dict[str, Any]:
  """The first step, the usual one, its parts where they are known, and all of them."""
  found: dict[str, Any] = {"first": first.whole, "step": statistics.median(s.whole for s in steps)}
  for part in ("sampling", "updating"):
    if getattr(first, part) is not None:
      found[part] = statistics.median(getattr(s, part) for s in steps)
  return {**found, "all": [round(s.whole, 2) for s in steps]}


def _lesson(name: str, folder: str) -> Lesson:
  """A lesson for the model of a Hugging Face directory, which is made in `folder` if need be.

  Any other model is written there in float32, one of SmolLM2's shape with random weights if none
  is named.
  """
  if name:
    loaded = api.load(name)
    config, weights = loaded.config, loaded.weights
    require(config.moe is None, f"--model={name} has experts; --suite=grpo wants a dense model.")
  else:
    random = Transformer(preset("smollm2_135m"))
    config, weights = random.config, jax.jit(lambda k: init_weights(random, k))(jax.random.key(0))
  if not name or not is_pretrained(name):
    save_pretrained(os.path.join(folder, ""), config, weights)
    name = folder
  return Lesson(name, config.vocab)
