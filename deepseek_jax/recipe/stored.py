"""The models that a workdir of the recipe holds, by their stages."""

from pathlib import Path
from typing import Any

from deepseek_jax.config import ConfigError, ModelConfig, from_dict, require
from deepseek_jax.data.tokenizer import Tokenizer
from deepseek_jax.recipe.graph import GRAPH, STAGES
from deepseek_jax.recipe.resolve import origin_of
from deepseek_jax.train.checkpoint import load_weights
from deepseek_jax.train.start import load_start, open_tokenizer, require_fit
from deepseek_jax.train.workdir import read_config
from deepseek_jax.types import Weights

_TEACHERS = tuple(node.stage for node in GRAPH if node.model == "teacher")


def load_stage(folder: Path, stage: str = "") -> tuple[ModelConfig, Weights, Tokenizer]:
  """Architecture, weights and tokenizer of a finished stage; without a name of the last teacher's.

  Where a model from outside stands in a stage's place, it is read from where that lies.

  Raises:
    ConfigError: there is no such stage, or it is not finished, or its weights are another model's.
  """
  values = read_config(folder)
  stage = _finished(folder, stage)
  section = values.get(stage) or {}
  if "init" in section:
    config, weights, _ = load_start(section["init"])
    return config, weights, open_tokenizer(section["tokenizer"])
  first = origin_of(values, stage)
  begun = values.get(first) or {}
  config = _architecture(values, first, begun, folder)
  weights = load_weights(folder / "checkpoints" / stage)
  require_fit(config, weights, folder)
  return config, weights, open_tokenizer(begun.get("tokenizer") or values["tokenizer"])


def _architecture(
  values: dict[str, Any], first: str, begun: dict[str, Any], folder: Path
) -> ModelConfig:
  """That of the stages that began with `first`."""
  if "init" in begun:
    return from_dict(ModelConfig, begun["model"], f"{folder}: {first}.model")
  model = next(node.model for node in GRAPH if node.stage == first)
  return from_dict(ModelConfig, values[model], f"{folder}: {model}")


def _finished(folder: Path, stage: str) -> str:
  """The stage of that name, or the last of the teacher's, else of all, that are finished."""
  require(not stage or stage in STAGES, f"stage {stage!r} is none of {', '.join(STAGES)}.")
  finished = [s for s in STAGES if (folder / "stages" / f"{s}.json").is_file()]
  if stage:
    found = [s for s in finished if s == stage]
  else:
    found = [s for s in finished if s in _TEACHERS] or finished
  if not found:
    done = ", ".join(finished) or "none"
    raise ConfigError(f"{folder} has not finished {stage or 'a stage'} yet; finished: {done}.")
  return found[-1]
