"""What is found before anything runs: models, tokenizers, forms, lengths, tasks and files."""

import pytest

from deepseek_jax.config import ConfigError, to_dict
from deepseek_jax.presets import preset
from deepseek_jax.recipe import machinery
from deepseek_jax.recipe.job import r1_config, run_r1
from deepseek_jax.recipe.resolve import origin_of
from tests.deepseek_jax.recipe.tiny import BYTES, WORDS, save_model, values, write_lines
from tests.talker import write_talker

KEEP = {"truncated": "keep"}


@pytest.fixture
def nothing_runs(monkeypatch):
  """No machine is made, hence nothing compiled or trained, and no weights read."""

  def refused(*_):
    raise AssertionError("it began to run")

  monkeypatch.setattr(machinery.Machinery, "__init__", refused)
  monkeypatch.setattr("deepseek_jax.recipe.run.load_start", refused)


def section(stage, **changes):
  return {stage: values()[stage] | changes}


def rollout(stage, **changes):
  settings = values()[stage]
  return {stage: {**settings, "rl": {"rollout": settings["rl"]["rollout"] | changes}}}


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({"teacher": None}, "config.base pre-trains a model, but config.teacher says not which"),
    ({"student": None}, "config.student_base pre-trains a model"),
    ({"teacher": to_dict(BYTES)}, "config.teacher has a vocabulary of 272, but .* 'word' has 4"),
    (section("r1_zero", task="nowhere:task"), "r1_zero: task 'nowhere:task'"),
    (section("sft2", task="reasoning_gym:none"), "sft2: .*reasoning"),
    (section("distilled", template="turns"), "distilled: the tokenizer has no form for conv"),
    (section("distilled", template="loud"), "distilled: template 'loud' is unknown"),
    (rollout("rl1", template="turns"), "rl1: the tokenizer has no form for conversations"),
    (rollout("rl1", width=129), "rl1: rl.rollout.width is of 129 tokens, more than the context"),
    (section("base", length=200), "base: length is of 200 tokens, more than the context"),
    (section("sft2", length=4), "sft2: its first prompt has 4 tokens"),
    (section("cold_start", samples={"max_new": 125}), "cold_start: samples.max_new 125 and a pro"),
    (section("cold_start", traces={"path": "none.jsonl"}), "cold_start: none.jsonl does not ex"),
    (section("cold_start", traces={"share": 0.5}), "written.share is 0.5, but there is no path"),
    (section("r1_zero", task="reasoning_gym:gcd"), "r1_zero: the word tokenizer does not know"),
    ({"mesh": {"fsdp": 3}}, "engine_batch is 16; it must divide by mesh"),
    ({"price_per_device_hour": -1.0}, "price_per_device_hour is -1"),
    (
      {"evaluation": {"problems": 99}},
      "base: evaluation.problems is 99, but tests.pos.* has only 9",
    ),
    (
      {"evaluation": {"max_new": 127, "problems": 4}},
      "base: evaluation.max_new 127 and a prompt make",
    ),
  ],
)
def test_what_cannot_be_is_told_before_anything_runs(tmp_path, nothing_runs, changes, told):
  workdir = tmp_path / "run"
  with pytest.raises(ConfigError, match=told) as caught:
    run_r1(r1_config(values(**changes)), workdir)
  assert "\n" not in str(caught.value) and not workdir.exists()


def test_a_reward_model_must_be_one(tmp_path, nothing_runs):
  reward = {"learned": {"weight": 1.0, "model": str(tmp_path)}}
  with pytest.raises(ConfigError, match="r1: rl.rollout.reward.learned.model .* is no workdir"):
    run_r1(r1_config(values(**rollout("r1", reward=reward, advantage=KEEP))), tmp_path / "run")


def test_a_reward_model_must_judge_a_task_that_is_drawn_from(tmp_path, nothing_runs):
  reward = {"learned": {"weight": 1.0, "model": str(tmp_path), "tasks": "general"}}
  changes = rollout("r1", reward=reward, advantage=KEEP)
  changes["r1"]["task"] = "mini + tests.positive_task:Positive"
  with pytest.raises(ConfigError, match="r1: .*names general, but the problems are of countdown"):
    run_r1(r1_config(values(**changes)), tmp_path / "run")


def test_programs_want_a_sandbox(tmp_path, nothing_runs, monkeypatch):
  def none():
    raise ConfigError("there is no sandbox")

  monkeypatch.setattr("deepseek_jax.recipe.checks.sandbox", none)
  tests = [{"input": "1", "output": "1"}]
  records = [{"prompt": f"Echo {n}.", "tests": tests} for n in range(20)]
  task = f"chain_sum + code:{write_lines(tmp_path / 'c.jsonl', records)}"
  with pytest.raises(ConfigError, match="rl1: there is no sandbox"):
    run_r1(r1_config(values(**section("rl1", task=task))), tmp_path / "run")


def test_files_are_read_before_anything_runs(tmp_path, nothing_runs):
  said = write_lines(tmp_path / "t.jsonl", [{"question": "1", "answer": "2"}])
  changes = section("cold_start", source="none", traces={"path": said})
  with pytest.raises(ConfigError, match="has no text in field 'prompt'.*question, answer"):
    run_r1(r1_config(values(**changes)), tmp_path / "run")
  said = write_lines(tmp_path / "t.jsonl", [{"prompt": "sum 1 1 ?", "text": "2"}])
  changes = section("cold_start", source="none", traces={"path": said, "share": 0.5})
  with pytest.raises(ConfigError, match="cold_start: traces.share is 0.5, but nothing is sampled"):
    run_r1(r1_config(values(**changes)), tmp_path / "run")


def test_a_model_from_outside_brings_what_is_its_own(tmp_path):
  write_talker(tmp_path / "m")
  config = r1_config(values(base={"init": str(tmp_path / "m")}))
  assert config.teacher is None and config.base.model.vocab == 512
  assert config.base.tokenizer == str(tmp_path / "m")
  assert config.student.vocab == WORDS.vocab
  for stage in ("r1_zero", "rl1", "r1"):
    assert getattr(config, stage).rl.rollout.template == "turns"
  assert config.cold_start.samples.template == config.distilled.samples.template == "turns"
  assert config.student_rl.rl.rollout.template == "plain"
  assert r1_config(to_dict(config)) == config


def test_a_form_that_is_set_is_kept_and_handed_on(tmp_path):
  changes = rollout("r1_zero", template="r1_zero")
  config = r1_config(values(**changes))
  assert config.r1_zero.rl.rollout.template == config.cold_start.samples.template == "r1_zero"
  assert config.rl1.rl.rollout.template == "plain"


def test_one_field_replaces_a_stage_of_any_config(tmp_path):
  model = save_model(tmp_path / "m", BYTES, "byte")
  config = r1_config(values(**section("base", init=model)))
  assert config.base.tokenizer == "byte" and config.base.model == BYTES
  assert preset("v3_mini") != config.base.model


@pytest.mark.parametrize("init", ["", None])
def test_an_empty_name_does_not_pre_train_in_silence(init):
  with pytest.raises(ConfigError, match="config.base.init is empty; name a model"):
    r1_config(values(**section("base", init=init)))


@pytest.mark.parametrize("stages", [",", " , "])
def test_a_list_of_stages_that_names_none_is_refused(stages):
  with pytest.raises(ConfigError, match="config.stages is .* and names none"):
    r1_config(values(stages=stages))


def test_a_model_that_is_not_there_is_named():
  with pytest.raises(ConfigError, match="/nowhere does not exist"):
    r1_config(values(base={"init": "/nowhere"}))


def test_the_first_of_a_line():
  plain = values()
  assert origin_of(plain, "r1") == "base" and origin_of(plain, "distilled") == "student_base"
  given = {**plain, "sft2": {"init": "m"}, **section("student_rl", start="r1")}
  assert origin_of(given, "r1") == origin_of(given, "student_rl") == "sft2"
