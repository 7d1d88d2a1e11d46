"""The recipe's large configs: they resolve without weights, to the published figures."""

import importlib

import pytest

from configs import distill_r1
from deepseek_jax.config import ConfigError
from deepseek_jax.presets import preset
from deepseek_jax.recipe import resolve
from deepseek_jax.recipe.config import GivenStage
from deepseek_jax.recipe.graph import graph_of
from deepseek_jax.recipe.origins import origins

RATES = {
  "qwen_1_5b": 1e-4, "qwen_7b": 8e-5, "qwen_14b": 7e-5, "qwen_32b": 6e-5, "llama_8b": 5e-5,
  "llama_70b": 2e-5,
}  # fmt: skip
SHAPES = {
  "deepseek-ai/DeepSeek-V3-Base": "v3_671b",
  "deepseek-ai/DeepSeek-R1": "r1_671b",
} | {init: f"r1_distill_{name}" for name, (init, _) in distill_r1.STUDENTS.items()}


@pytest.fixture
def hub(monkeypatch):
  """Models by name, known by their architecture alone."""
  monkeypatch.setattr(resolve, "pinned", lambda name: name)
  monkeypatch.setattr(resolve, "read_architecture", lambda name: preset(SHAPES[name]))
  monkeypatch.setattr(resolve, "resolve_tokenizer", lambda name, init: name or "byte")
  monkeypatch.setattr(
    resolve, "resolve_model",
    lambda values, init: resolve.from_dict(
      type(preset("v3_mini")), resolve.to_dict(preset(SHAPES[init])) | values
    ),
  )  # fmt: skip


def made(name, *arguments):
  config = importlib.import_module(f"configs.{name}").get_config(*arguments)
  return resolve.r1_config(config.to_dict())


def test_r1_is_the_published_recipe(hub):
  config = made("r1_671b")
  graph = graph_of(config)
  assert [n.stage for n in graph] == ["base", "r1_zero", "cold_start", "rl1", "sft2", "r1"]
  assert config.base.model == preset("v3_671b") and config.mesh.devices == 2048
  for stage in (config.r1_zero, config.rl1, config.r1):
    rl, rollout = stage.rl, stage.rl.rollout
    assert rollout.prompts * rollout.group == 8192 and rollout.prompts // rollout.updates == 32
    assert rl.updates == 16 and rollout.group == 16 and rl.epochs == 1
    assert (rl.peak, rl.final, rl.kl_weight, rl.reference_every) == (3e-6, 1.0, 1e-3, 400)
    assert rl.clip_low == rl.clip_high == 10 and rollout.max_new == 32_768
  assert config.r1_zero.iterations * 16 == 10_400 and config.r1.iterations * 16 == 1696
  temperatures = [s.rl.rollout.temperature for s in (config.r1_zero, config.rl1, config.r1)]
  assert temperatures == [1.0, 1.0, 0.7]
  assert [s.rl.rollout.reward.language for s in (config.r1_zero, config.rl1)] == [0.0, 1.0]
  for stage in (config.cold_start, config.sft2):
    assert (stage.rate, stage.batch, stage.length, stage.epochs) == (5e-5, 128, 32_768, 2)


@pytest.mark.parametrize("student", list(RATES))
def test_the_six_students_are_as_published(hub, student):
  config = made("distill_r1", student)
  assert [n.stage for n in graph_of(config)] == ["r1", "student_base", "distilled"]
  tuned = config.distilled
  assert (tuned.rate, tuned.batch, tuned.length) == (RATES[student], 64, 32_768)
  found = origins(config, graph_of(config))["distilled"].model
  assert found == preset(f"r1_distill_{student}") and found.max_context == 131_072


def test_only_context_and_rotation_of_a_given_model_may_be_changed(hub):
  config = distill_r1.get_config("qwen_7b")
  config.student_base.model.layers = 3
  with pytest.raises(
    ConfigError, match="config.student_base.model is not the architecture of Qwen"
  ):
    resolve.r1_config(config.to_dict())
  with pytest.raises(ValueError, match="'qwen_8b' is no student"):
    distill_r1.get_config("qwen_8b")


def test_a_real_model_is_named_on_the_command_line(hub):
  with pytest.raises(ConfigError, match="config.base.init is empty; name a model: --config.base"):
    made("r1_smollm2")
  config = importlib.import_module("configs.r1_smollm2").get_config()
  config.base.init = "Qwen/Qwen2.5-14B"
  with pytest.raises(ConfigError, match="config.student_base.init is empty; name a model"):
    resolve.r1_config(config.to_dict())
  config.stages = "base,r1_zero,cold_start,rl1,sft2,r1"
  found = resolve.r1_config(config.to_dict())
  assert isinstance(found.base, GivenStage) and found.student_base is None
  assert [n.stage for n in graph_of(found)][-1] == "r1"
