"""What a config asks of a machine: its model, mesh and step, as `plan` wants them.

Nothing is opened that a plan does not need: no tokenizer, no data, and no weights. A model that
begins from one of DeepSeek's or their students' names on the Hub is that preset; any other is read
as the job would read it. Of a recipe one stage is planned.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from deepseek_jax.config import ComputeConfig, ModelConfig, from_dict, require
from deepseek_jax.data.config import DataConfig
from deepseek_jax.model.adapters import LoRAConfig
from deepseek_jax.plan.workload import Sampling, Workload
from deepseek_jax.presets import preset
from deepseek_jax.recipe.graph import GRAPH
from deepseek_jax.rl.trainer import RLConfig
from deepseek_jax.sharding import MeshConfig
from deepseek_jax.train.optimizer import OptimizerConfig
from deepseek_jax.train.start import resolve_model

# What the last part of a Hub name begins with -> preset. The students' bases have their shapes.
_HUB = (
  (r"DeepSeek-V3|DeepSeek-R1(?!-Distill|-0528-Qwen)", "v3_671b"),
  (r"DeepSeek-V2-Lite", "v2_lite_16b"),
  (r"DeepSeek-V2", "v2_236b"),
  (r"DeepSeek-R1-Distill-Qwen-1\.5B|Qwen2\.5-Math-1\.5B", "r1_distill_qwen_1_5b"),
  (r"DeepSeek-R1-Distill-Qwen-7B|Qwen2\.5-Math-7B", "r1_distill_qwen_7b"),
  (r"DeepSeek-R1-Distill-Qwen-14B|Qwen2\.5-14B", "r1_distill_qwen_14b"),
  (r"DeepSeek-R1-Distill-Qwen-32B|Qwen2\.5-32B", "r1_distill_qwen_32b"),
  (r"DeepSeek-R1-Distill-Llama-8B|Llama-3\.1-8B", "r1_distill_llama_8b"),
  (r"DeepSeek-R1-Distill-Llama-70B|Llama-3\.[13]-70B", "r1_distill_llama_70b"),
)
_PARTS: tuple[tuple[str, type], ...] = (
  ("mesh", MeshConfig),
  ("compute", ComputeConfig),
  ("optimizer", OptimizerConfig),
)


def planned(
  values: Mapping[str, Any], name: str, model: str = "", stage: str = "", sampled: int = 0
) -> Workload:
  """The workload of a config's values; `model` names a preset to take in place of its own.

  Args:
    stage: of a recipe; by default the first that is trained.
    sampled: mean tokens of a sample in reinforcement; 0: half of the longest.
  """
  if {node.stage for node in GRAPH} & set(values):
    return _stage(values, name, model, stage, sampled)
  require(not stage, f"--stage is {stage!r}, but {name} is no recipe; leave it out.")
  own = _model(values.get("model") or {}, values.get("init") or "", model)
  if "rl" in values:
    return _reinforced(values, values["rl"], own, name, sampled)
  data, default = values.get("data") or {}, DataConfig()
  return _workload(
    values,
    own,
    name,
    kind="training",
    rows=data.get("batch", default.batch),
    length=data.get("length", default.length),
    micro_batches=values.get("micro_batches", 1),
  )


def preset_values(name: str, rows: int, length: int) -> dict[str, Any]:
  """A config for a preset that none was written for: bfloat16, all layers made again."""
  return {
    "model": {"preset": name},
    "data": {"batch": rows, "length": length},
    "compute": {"dtype": "bfloat16", "remat": "full"},
    "optimizer": {"moment_dtype": "bfloat16"},
  }


def _model(values: Mapping[str, Any], init: str, named: str) -> ModelConfig:
  """The architecture of a section `model` and of what the job begins from."""
  if named:
    return preset(named)
  require(
    bool(values or init),
    "the config names no model; give --model=PRESET, --config.init=MODEL or --config.model.preset.",
  )
  last = init.partition("@")[0].rpartition("/")[2]
  known = [shape for pattern, shape in _HUB if re.match(pattern, last)]
  if known and "/" in init and not values.get("preset"):
    return resolve_model({"preset": known[0], **values})
  return resolve_model(values, init)


def _workload(values: Mapping[str, Any], model: ModelConfig, name: str, **step: Any) -> Workload:
  parts: dict[str, Any] = {
    part: from_dict(kind, values.get(part) or {}, part) for part, kind in _PARTS
  }
  lora = values.get("lora")
  return Workload(
    name=name,
    model=model,
    loss_chunk=values.get("loss_chunk", 1024),
    lora=None if lora is None else from_dict(LoRAConfig, lora, "lora"),
    **parts,
    **step,
  )


def _reinforced(
  values: Mapping[str, Any],
  section: Mapping[str, Any],
  model: ModelConfig,
  name: str,
  sampled: int,
) -> Workload:
  """An update of the widest rows, and the rollout it belongs to; rewards cost a machine nothing."""
  rollout = {k: v for k, v in (section.get("rollout") or {}).items() if k != "reward"}
  rl = from_dict(RLConfig, {**section, "rollout": rollout}, "rl")
  micro_batches, rows, width = rl.rollout.shape
  work = _workload(
    values, model, name, kind="reinforcement", rows=rows, length=width, micro_batches=micro_batches
  )
  sampling = Sampling(
    samples=rl.rollout.prompts * rl.rollout.group,
    prompt=width - rl.rollout.max_new,
    mean=sampled or max(1, rl.rollout.max_new // 2),
    longest=rl.rollout.max_new,
    updates=rl.updates,
    epochs=rl.epochs,
    scorings=int(rl.rescores) + int(rl.kl_weight > 0),
    rows=values.get("engine_batch", 256),
  )
  copied = rl.kl_weight > 0 and work.lora is None
  return dataclasses.replace(work, sampling=sampling, reference=copied)


def _stage(values: Mapping[str, Any], name: str, model: str, stage: str, sampled: int) -> Workload:
  """One stage of a recipe, with the model that it trains."""
  wanted = (values.get("stages") or "").split(",") if values.get("stages") else None
  present = {
    node.stage: node
    for node in GRAPH
    if values.get(node.stage) and (wanted is None or node.stage in wanted)
  }
  trained = [n for n in present if not values[n].get("init")]
  require(bool(trained), f"{name} trains no stage; give one of {', '.join(values)}.")
  chosen = stage or trained[0]
  require(chosen in trained, f"--stage is {stage!r}; {name} trains {', '.join(trained)}.")
  settings, kind = values[chosen], present[chosen].model
  given = [values[n] for n, node in present.items() if node.model == kind and n not in trained]
  init = given[0]["init"] if given else ""
  section = values.get(kind) or (given[0].get("model") if given else None) or {}
  own = _model(section, init, model)
  label = f"{name}: {chosen}"
  if "rl" in settings or "iterations" in settings:
    return _reinforced(values, settings.get("rl") or {}, own, label, sampled)
  rows, length = settings.get("batch", 12), settings.get("length", 128)
  return _workload(values, own, label, kind="training", rows=rows, length=length)
