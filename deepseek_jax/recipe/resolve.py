"""From a config's values to the recipe's settings: models from outside, and how they are asked.

Here a name is looked up, and what a model says of itself takes the place of what the config leaves
open: architecture, tokenizer, the form of a prompt. Weights are not read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from deepseek_jax.by_name import pinned
from deepseek_jax.config import from_dict, require, to_dict
from deepseek_jax.data.asking import PLAIN, own_form
from deepseek_jax.recipe.config import R1Config
from deepseek_jax.recipe.graph import GRAPH, NONE, STAGES
from deepseek_jax.train.start import (
  open_tokenizer,
  read_architecture,
  resolve_model,
  resolve_tokenizer,
)

_MADE = {"base": "teacher", "student_base": "student"}  # pre-trained unless they are given
_DEFAULTS = {node.stage: node for node in GRAPH}


def r1_config(values: Mapping[str, Any]) -> R1Config:
  """The recipe of a config's values; fields that are not among them have their defaults.

  A section with `init` is a model from outside, whatever else it says: so one flag replaces a
  stage of any config. `stages` names those that there shall be, as in base,r1_zero; the others are
  left out. `teacher` and `student` are of models that the run makes, and else of no account.
  """
  given = dict(values)
  _keep(given, given.pop("stages", None) or "")
  for stage in STAGES:
    section = given.get(stage)
    if isinstance(section, Mapping) and "init" in section:
      given[stage] = _given(section, stage)
  for stage, model in _MADE.items():
    section = given.get(stage)
    made = isinstance(section, Mapping) and "init" not in section
    given[model] = resolve_model(given[model]) if made and given.get(model) else None
  given["tokenizer"] = given.get("tokenizer") or "word"
  for stage in STAGES:
    if isinstance(given.get(stage), Mapping):
      given[stage] = _asked(given, stage)
  return from_dict(R1Config, given)


def form_of(values: Mapping[str, Any], stage: str, seen: tuple[str, ...] = ()) -> str:
  """The form in which a stage's model is asked; `plain` in a graph that cannot be."""
  section = values.get(stage)
  if not isinstance(section, Mapping) or stage in seen:
    return PLAIN
  if "init" in section or stage in _MADE:
    return own_form(open_tokenizer(section.get("tokenizer") or values["tokenizer"]))
  rollout = (section.get("rl") or {}).get("rollout") or {}
  template = rollout.get("template") or section.get("template")
  return template or form_of(values, _start(section, stage), (*seen, stage))


def origin_of(values: Mapping[str, Any], stage: str) -> str:
  """The stage with which the line of a stage began, by the values of a run's config.json."""
  seen = []
  while stage not in seen:
    seen.append(stage)
    section = values.get(stage) or {}
    stage = stage if "init" in section or stage in _MADE else _start(section, stage)
  return stage


def _start(section: Mapping[str, Any], stage: str) -> str:
  start = section.get("start")
  return start if isinstance(start, str) and start else _DEFAULTS[stage].start or stage


def _keep(given: dict[str, Any], names: str) -> None:
  """Leaves out the stages that are not named, where some are."""
  wanted = [name.strip() for name in names.split(",") if name.strip()]
  require(
    bool(wanted) or not names,
    f"config.stages is {names!r} and names none; the stages are {', '.join(STAGES)}.",
  )
  for name in wanted:
    require(
      name in STAGES,
      f"config.stages names {name!r}, which is no stage; the stages are {', '.join(STAGES)}.",
    )
    require(
      isinstance(given.get(name), Mapping),
      f"config.stages names {name}, which this config has no section for; give config.{name}.",
    )
  if wanted:
    given.update({stage: None for stage in STAGES if stage not in wanted})


def _given(section: Mapping[str, Any], stage: str) -> dict[str, Any]:
  """The fields of `GivenStage`. Of the architecture, only what holds no weights may be changed."""
  require(
    bool(section["init"]),
    f"config.{stage}.init is empty; name a model: --config.{stage}.init=MODEL.",
  )
  init = pinned(section["init"])
  own = read_architecture(init)
  model = resolve_model(section.get("model") or {}, init)
  require(
    dataclasses.replace(model, max_context=own.max_context, rope=own.rope) == own,
    f"config.{stage}.model is not the architecture of {init}; change max_context and rope only.",
  )
  return {
    "init": init,
    "model": to_dict(model),
    "tokenizer": resolve_tokenizer(section.get("tokenizer"), init),
  }


def _asked(values: Mapping[str, Any], stage: str) -> dict[str, Any]:
  """A stage's section, with the forms of its prompts where it leaves them open."""
  section = dict(values[stage])
  if "init" in section or stage in _MADE:
    return section
  if _is_tuned(stage):
    source = section.get("source") or _DEFAULTS[stage].source
    samples = dict(section.get("samples") or {})
    if source != NONE and not samples.get("template"):
      samples["template"] = form_of(values, source or "")
    return {**section, "samples": samples}
  rl = dict(section.get("rl") or {})
  rollout = dict(rl.get("rollout") or {})
  if not rollout.get("template"):
    rollout["template"] = form_of(values, _start(section, stage))
  return {**section, "rl": {**rl, "rollout": rollout}}


def _is_tuned(stage: str) -> bool:
  return _DEFAULTS[stage].source is not None
