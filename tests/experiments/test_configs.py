"""Configs: every field has its place on the command line, and every file makes a job."""

import dataclasses
import importlib
import json
import typing
from pathlib import Path

import pytest

from configs import base, r1_base
from deepseek_jax.config import ConfigError, GQAConfig, MLAConfig, to_dict
from deepseek_jax.presets import preset
from deepseek_jax.recipe.config import R1Config
from deepseek_jax.recipe.graph import STAGES
from deepseek_jax.recipe.job import r1_config
from deepseek_jax.train.pretrain_job import PretrainJob, pretrain_job
from deepseek_jax.train.schedule import CosineSchedule, V3Schedule

CONFIGS = Path(__file__).parents[2] / "configs"


def fields_of(kind):
  """The nested fields of a dataclass as base.py writes them, unions merged."""
  found = {}
  for name, hint in typing.get_type_hints(kind).items():
    options = [o for o in typing.get_args(hint) or (hint,) if dataclasses.is_dataclass(o)]
    if V3Schedule in options:
      options = [CosineSchedule]  # base offers this one
    inner = {}
    for option in options:
      inner |= fields_of(option)
    found[name] = inner or None
  return found


def names(tree):
  return {k: names(v) if isinstance(v, dict) else None for k, v in tree.items()}


def test_base_has_every_field_of_a_pretraining_job():
  wanted = fields_of(PretrainJob)
  wanted["model"]["preset"] = None
  assert names(base.PRETRAIN) == wanted


def job(name, **changes):
  config = importlib.import_module(f"configs.{name}").get_config()
  config.update(changes)
  return pretrain_job(config.to_dict())


@pytest.mark.parametrize("name", ["pretrain_tiny", "pretrain_mini"])
def test_small_configs_make_jobs(name):
  assert job(name).schedule.peak > 0


def test_v3_config_is_the_published_recipe():
  made = job("v3_671b", data={"path": "text", "tokenizer": "dir"})
  extended = preset("v3_671b")  # pre-trained at 4K with the plain rotation
  plain = dataclasses.replace(extended.rope, scaling="none")
  assert made.model == dataclasses.replace(extended, rope=plain, max_context=4096)
  assert made.schedule == V3Schedule()
  assert made.optimizer.moment_dtype == "bfloat16"
  assert made.mesh.devices == 2048
  assert made.data.batch * made.micro_batches == 15_360


def test_a_model_is_a_preset_and_changes():
  made = job("pretrain_tiny", model={"layers": 3, "moe": {"top_k": 1}})
  assert (made.model.layers, made.model.moe.top_k) == (3, 1)
  assert made.model.moe.experts == preset("v3_mini").moe.experts
  assert isinstance(made.model.attention, MLAConfig)
  dense = pretrain_job(
    {"model": {"preset": "smollm2_135m"}, "schedule": {"peak": 1e-3}, "train": {"steps": 1}}
  )
  assert isinstance(dense.model.attention, GQAConfig)


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"model": {"preset": "v9"}}, "v9"),
    ({"model": {"attention": {"kv_heads": 2}}}, "attention"),
    ({"model": {"moe": {"top_k": 99}}}, "moe.top_k"),
    ({"data": {"length": 100_000}}, "data.length"),
    ({"mesh": {"fsdp": 3}}, "data.batch"),
    ({"micro_batches": 0}, "micro_batches"),
    ({"init": "/nowhere", "model": {"preset": ""}}, "/nowhere"),
  ],
)
def test_impossible_jobs_are_named(changes, named):
  with pytest.raises(ConfigError, match=named):
    job("pretrain_tiny", **changes)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda p: p.stem)
def test_every_config_says_what_it_is(path):
  text = importlib.import_module(f"configs.{path.stem}").__doc__
  if path.stem not in ("base",) and hasattr(
    importlib.import_module(f"configs.{path.stem}"), "get_config"
  ):
    for word in ("Reproduces:", "Hardware:", "Command:", "Result:"):
      assert word in text, f"{path.name} lacks {word}"


def test_r1_base_has_every_field_of_the_recipe():
  wanted = fields_of(R1Config)
  for model in ("teacher", "student"):
    wanted[model]["preset"] = None
  for stage in STAGES:
    wanted[stage]["model"]["preset"] = None
  assert names(r1_base.R1) == wanted | {"stages": None}


@pytest.mark.parametrize("name", ["r1_tiny", "r1_mini"])
def test_r1_configs_make_jobs(name):
  made = r1_config(importlib.import_module(f"configs.{name}").get_config().to_dict())
  assert made.teacher.moe.selection_bias and made.teacher.mtp_depth == 1
  assert made.student.moe is None


def test_none_can_be_said_and_is_not_unset():
  assert job("pretrain_tiny").optimizer.clip_norm == 1.0
  made = job(
    "pretrain_tiny",
    optimizer={"clip_norm": None},
    model={"attention": {"q_latent": None}, "moe": None},
  )
  assert made.optimizer.clip_norm is None
  assert made.model.attention.q_latent is None and made.model.moe is None
  assert json.loads(json.dumps(to_dict(made)))["optimizer"]["clip_norm"] is None
  with pytest.raises(ConfigError, match="config.train.steps is None"):
    job("pretrain_tiny", train={"steps": None})


def test_what_was_never_set_is_not_among_a_configs_values():
  assert base.unset(base.GRPO).to_dict() == {}
  config = base.pretrain(train={"steps": 3})
  assert config.to_dict() == {"train": {"steps": 3}}
  config.seed = None
  assert config.to_dict() == {"train": {"steps": 3}, "seed": None}
