"""Configs of fine-tuning, reinforcement and distillation: complete, and refused when impossible."""

import importlib

import pytest

from configs import base
from deepseek_jax.config import ConfigError, to_dict
from deepseek_jax.rl.distillation import DistillJob, distill_job
from deepseek_jax.rl.grpo_job import GRPOJob, grpo_job
from deepseek_jax.rl.reward_job import RewardModelJob, reward_model_job
from deepseek_jax.train.sft import sft_job
from tests.experiments.test_configs import fields_of, names

MODEL = {"model": {"preset": "v3_mini"}}
MAKE = {
  "grpo": grpo_job,
  "sft": sft_job,
  "distill": distill_job,
  "reward": reward_model_job,
}


@pytest.mark.parametrize(
  ("fields", "kind"),
  [(base.GRPO, GRPOJob), (base.DISTILL, DistillJob), (base.REWARD_MODEL, RewardModelJob)],
  ids=["grpo", "distill", "reward_model"],
)
def test_base_has_every_field(fields, kind):
  wanted = fields_of(kind)
  wanted["model"]["preset"] = None
  assert names(fields) == wanted


def job(name, **changes):
  config = importlib.import_module(f"configs.{name}").get_config()
  config.update({**MODEL, **changes})
  return MAKE[name.partition("_")[0]](config.to_dict())


def test_small_configs_make_jobs():
  assert job("grpo_tiny").rl.rollout.prompts == 4
  assert job("grpo_mini").optimizer.weight_decay == 0
  assert job("sft_mini", data={"path": "x"}).data.epochs == 2
  distill = job("distill_mini", teacher="x")
  assert distill.mix == 0 and distill.data.loss == "answer"
  assert job("reward_mini").optimizer.weight_decay == 0
  assert distill.traces.policy == distill.traces.cites == ""


def test_a_policy_given_as_a_file_is_in_the_config_as_text(tmp_path):
  (tmp_path / "policy.md").write_text("Be kind.\n\nBe brief.\n")
  made = job("distill_mini", teacher="x", traces={"policy": str(tmp_path / "policy.md")})
  assert made.traces.policy == "Be kind.\n\nBe brief."
  assert distill_job({**to_dict(made), "init": ""}).traces == made.traces  # resolved once


def test_r1_zero_is_the_published_recipe():
  made = job("grpo_r1_zero", model={"preset": "v3_671b"}, task="x:y", tokenizer="d")
  rollout = made.rl.rollout
  assert rollout.prompts * rollout.group == 8192
  assert rollout.prompts // rollout.updates == 32
  assert made.train.steps * made.rl.updates == 10_400
  assert made.rl.kl_weight == 1e-3 and made.rl.reference_every == 400
  assert rollout.advantage.scale == "std" and rollout.advantage.normalisation == "sequence"
  assert made.mesh.devices == 2048


@pytest.mark.parametrize(
  ("name", "changes", "named"),
  [
    ("grpo_tiny", {"rl": {"ratio_level": "word"}}, "rl.ratio_level"),
    ("grpo_tiny", {"rl": {"rollout": {"width": 100_000}}}, "rl.rollout.width is 100000"),
    ("grpo_tiny", {"mesh": {"fsdp": 3}}, "rl.rollout.rows is 4"),
    ("grpo_tiny", {"optimizer": {"ema_decay": 0.9}}, "optimizer.ema_decay"),
    ("grpo_tiny", {"rl": {"rollout": {"advantage": {"scale": "max"}}}}, "advantage.scale"),
    ("sft_mini", {"data": {"path": "x", "loss": "all"}}, "data.loss is 'all'"),
    ("distill_mini", {}, "teacher is missing"),
    ("distill_mini", {"teacher": "x", "mix": 2.0}, "mix is 2.0"),
    (
      "distill_mini",
      {"teacher": "x", "mix": 0.5, "traces": {"policy": "Be kind."}},
      "traces.policy is set, but mix is 0.5",
    ),
    (
      "distill_mini",
      {"teacher": "x", "data": {"source": "jsonl", "path": "x"}, "traces": {"policy": "Be kind."}},
      "traces.policy is set, but data.source is 'jsonl' and nothing is sampled",
    ),
    (
      "distill_mini",
      {"teacher": "x", "data": {"source": "jsonl", "path": "x"}, "traces": {"cites": "kind"}},
      "traces.cites is set, but data.source is 'jsonl'",
    ),
    (
      "distill_mini",
      {"teacher": "x", "traces": {"policy": "absent.txt"}},
      "the policy absent.txt cannot be read",
    ),
  ],
)
def test_impossible_jobs_are_named(name, changes, named):
  with pytest.raises(ConfigError, match=named):
    job(name, **changes)
