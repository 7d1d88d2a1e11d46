"""Every config is planned as its job would run, without opening what a plan does not need."""

import importlib
from pathlib import Path

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.plan.topology import topology
from deepseek_jax.presets import preset
from deepseek_jax.recipe.planned import planned, preset_values
from deepseek_jax.train.pretrain_job import pretrain_job

CONFIGS = sorted(
  path.stem
  for path in (Path(__file__).parents[3] / "configs").glob("*.py")
  if path.stem not in ("base", "r1_base")
)


def values(name, *args):
  return importlib.import_module(f"configs.{name}").get_config(*args).to_dict()


# Those that name no model: `init` or --model does.
MODELS = {
  "grpo_r1_zero": "v3_671b",
  **dict.fromkeys(
    ("grpo_smollm2", "grpo_smollm2_alone", "r1_smollm2", "sft_smollm2"), "smollm2_135m"
  ),
  **dict.fromkeys(
    (
      *("deliberative_mini", "distill_mini", "dynamic_mini", "grpo_mini", "grpo_tiny"),
      *("learned_mini", "lora_mini", "sft_mini"),
    ),
    "v3_mini",
  ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_planned(name):
  work = planned(values(name), name, model=MODELS.get(name, ""))
  assert work.tokens > 0 and work.kept["parameters"] > 0
  assert (work.sampling is not None) == (work.kind == "reinforcement")
  if name in MODELS:
    assert work.model == preset(MODELS[name])
    with pytest.raises(ConfigError, match="names no model; give --model=PRESET"):
      planned(values(name), name)


def test_a_step_is_that_of_the_job():
  given = values("pretrain_mini")
  job, work = pretrain_job(given), planned(given, "mini")
  assert (work.model, work.mesh, work.compute) == (job.model, job.mesh, job.compute)
  assert (work.rows, work.length) == (job.data.batch, job.data.length)
  assert (work.micro_batches, work.loss_chunk) == (job.micro_batches, job.loss_chunk)
  assert work.optimizer == job.optimizer


def test_v3_as_published():
  work = planned(values("v3_671b"), "v3_671b")
  assert work.tokens == 15_360 * 4096
  assert work.mesh.devices == 2048 and work.model.max_context == 4096


def test_r1_zero_as_published():
  work = planned(values("grpo_r1_zero"), "zero", model="r1_671b", sampled=8000)
  plan = work.sampling
  assert plan is not None and work.reference
  assert (plan.samples, plan.longest, plan.mean) == (8192, 32_768, 8000)
  assert (plan.updates, plan.epochs, plan.scorings, plan.rows) == (16, 1, 1, 8192)
  assert work.length == plan.prompt + plan.longest == 34_816


def test_names_on_the_hub_are_presets():
  assert planned(values("r1_671b"), "r1").model == preset("v3_671b")  # whose base has a name
  for name in ("qwen_7b", "llama_70b"):
    work = planned(values("distill_r1", name), "distill")
    assert work.model == preset(f"r1_distill_{name}")
    assert work.kind == "training" and work.length == 32_768


def test_a_stage_of_a_recipe():
  given = values("r1_671b")
  assert planned(given, "r1").name == "r1: r1_zero"
  tuned = planned(given, "r1", stage="sft2")
  assert (tuned.kind, tuned.rows, tuned.length) == ("training", 128, 32_768)
  mini = values("r1_mini")
  teacher, student = (planned(mini, "mini", stage=stage) for stage in ("base", "distilled"))
  assert teacher.model.moe is not None and student.model.moe is None
  with pytest.raises(ConfigError, match="--stage is 'student_rl'; r1 trains r1_zero, cold_start"):
    planned(given, "r1", stage="student_rl")
  with pytest.raises(ConfigError, match="--stage is 'rl1', but v3 is no recipe"):
    planned(values("v3_671b"), "v3", stage="rl1")


def test_adapters_have_no_reference_of_their_own():
  given = values("grpo_mini") | {"lora": {"rank": 4}}
  given["rl"]["kl_weight"] = 0.1
  work = planned(given, "lora", model="v3_mini")
  assert not work.reference and work.sampling is not None and work.sampling.scorings == 1
  whole = planned(values("grpo_mini"), "whole", model="v3_mini")
  assert work.kept["moments"] < 0.2 * whole.kept["moments"]


def test_a_preset_by_itself():
  work = planned(preset_values("v2_lite_16b", 32, 4096), "lite")
  assert work.model == preset("v2_lite_16b")
  assert (work.rows, work.compute.remat, topology("h100-8").devices) == (32, "full", 8)
