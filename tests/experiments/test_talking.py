"""Every door asks, learns and stops as the model's own files say."""

import json

import pytest

import deepseek_jax as ds
from configs import distill_mini, sft_mini
from deepseek_jax.config import ConfigError
from deepseek_jax.data.hf_tokenizer import HFTokenizer
from deepseek_jax.data.tokenizer import load_tokenizer, same_tokens
from deepseek_jax.decode.engine import SlotEngine
from deepseek_jax.evaluate.evaluation import Protocol, evaluate
from deepseek_jax.evaluate.file_benchmark import load_file_benchmark
from deepseek_jax.rl.distillation import distill_job, run_distill
from deepseek_jax.rl.grpo_job import grpo_job, run_grpo
from deepseek_jax.rl.rollout import RolloutConfig, roll_out
from deepseek_jax.tasks.registry import load_task
from deepseek_jax.train.pretrain_job import pretrain_job
from deepseek_jax.train.sft import run_sft, sft_job
from deepseek_jax.train.start import resolve_tokenizer
from tests.talker import write_talker

pytest.importorskip("tokenizers", reason="needs the extra hf")

OWN = {"eos_token_id": [1, 2], "bos_token_id": 0, "temperature": 0.7, "top_k": 20}


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
  """Says `<|eot_id|>`, the second of its end tokens, and nothing else."""
  folder = tmp_path_factory.mktemp("talker") / "model"
  write_talker(folder, 2, **OWN)
  return folder


def rl_values(init, **more):
  rollout = {"prompts": 2, "group": 2, "max_new": 4, "rows": 4, "width": 96, "updates": 1}
  return {"init": str(init), "train": {"steps": 1}, "rl": {"rollout": rollout},
          "engine_batch": 4, "task": "chain_sum", **more}  # fmt: skip


def test_an_answer_ends_at_any_of_the_models_end_tokens(talker, tmp_path):
  model = ds.load(talker)
  assert model.generate("hello", max_new=5) == ""
  (tmp_path / "two.jsonl").write_text('{"prompt": "1 + 1?", "answer": 2}\n')
  task = load_file_benchmark(tmp_path / "two.jsonl")
  protocol = Protocol("two", problems=1, samples=1, temperature=0.0, max_new=5, template="turns")
  engine = SlotEngine(model.transformer, 2)
  measured = evaluate(engine, model.weights, model.tokenizer, task, protocol)
  assert measured.truncated_PJ.sum() == 0 and measured.lengths_PJ.tolist() == [[1.0]]
  config = RolloutConfig(prompts=1, group=2, max_new=5, rows=2, width=96, updates=1)
  rollout = roll_out(engine, model.weights, load_task("chain_sum"), model.tokenizer, config, 0, 0)
  assert rollout.report["truncated"] == 0


def test_a_models_own_settings_go_out_as_they_came(talker, tmp_path):
  ds.load(talker).save(tmp_path / "out")
  assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == OWN
  config = json.loads((tmp_path / "out" / "config.json").read_text())
  assert (config["bos_token_id"], config["eos_token_id"]) == (0, 1)


def test_reinforcement_takes_tokenizer_and_turns_of_its_start(talker, tmp_path):
  job = grpo_job(rl_values(talker))
  assert job.tokenizer == str(talker) and job.rl.rollout.template == "turns"
  run_grpo(job, tmp_path / "run")
  kept = load_tokenizer(tmp_path / "run" / "tokenizer")
  assert same_tokens(kept, load_tokenizer(talker)) and set(kept.stop_ids) == {1, 2}
  recorded = json.loads((tmp_path / "run" / "config.json").read_text())
  assert recorded["rl"]["rollout"]["template"] == "turns"
  onward = grpo_job(rl_values(tmp_path / "run"))
  assert onward.tokenizer == str(tmp_path / "run" / "tokenizer")
  ds.load(tmp_path / "run").save(tmp_path / "out")
  assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == OWN
  asked = grpo_job(rl_values(talker, rl={"rollout": {"template": "r1_zero"}}))
  assert asked.rl.rollout.template == "r1_zero"


@pytest.mark.parametrize("name", ["word", "byte"])
def test_another_tokenizer_than_that_of_the_start_is_refused(name, talker):
  with pytest.raises(ConfigError, match=f"tokenizer '{name}' is not that of config.init"):
    grpo_job(rl_values(talker, tokenizer=name))
  values = {"init": str(talker), "data": {"tokenizer": name, "source": "stdlib"}}
  with pytest.raises(ConfigError, match=f"tokenizer '{name}' is not that of config.init"):
    pretrain_job(values)
  with pytest.raises(ConfigError, match=f"tokenizer '{name}' is not that of config.init"):
    sft_job({**values, "data": {"tokenizer": name, "source": "jsonl", "path": "x"}})


def test_a_start_that_knows_bytes_is_reinforced_in_bytes(talker, tmp_path):
  ds.load(talker).save(tmp_path / "bare")
  load_tokenizer("byte").save(tmp_path / "bare")
  (tmp_path / "bare" / "SHA256SUMS").unlink()
  job = grpo_job(rl_values(tmp_path / "bare"))
  assert (job.tokenizer, job.rl.rollout.template) == ("byte", "plain")


def test_without_a_start_the_word_tokenizer_is_kept(tmp_path):
  job = grpo_job({"model": {"preset": "v3_mini"}, "train": {"steps": 1}})
  assert (job.tokenizer, job.rl.rollout.template) == ("word", "plain")


def test_fine_tuning_learns_answers_in_the_models_turns(talker, tmp_path):
  lines = [{"question": "2 + 2?", "text": f"the {n}"} for n in range(4)]
  (tmp_path / "a.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
  values = sft_mini.get_config().to_dict()
  values |= {"init": str(talker), "model": {}, "train": {"steps": 2}}
  values["data"] = {"source": "jsonl", "path": str(tmp_path / "a.jsonl"), "batch": 2, "length": 64}
  assert sft_job(values).data.template == "plain"  # there is nothing to ask
  values["data"]["prompt_field"] = "question"
  job = sft_job(values)
  assert job.data.template == "turns" and job.data.tokenizer == str(talker)
  run_sft(job, tmp_path / "run")
  assert set(load_tokenizer(tmp_path / "run" / "tokenizer").stop_ids) == {1, 2}


@pytest.mark.parametrize("data", [{}, {"source": "problems"}, {"task": "arithmetic"}])
def test_problems_are_asked_in_the_models_turns_named_or_by_default(data, talker):
  values = {"init": str(talker), "data": {"records": 4, **data}, "schedule": {"peak": 1e-3}}
  assert sft_job(values).data.template == "turns"


def test_a_start_reads_its_tokenizer_no_oftener_than_it_must(talker, tmp_path, monkeypatch):
  (tmp_path / "a.jsonl").write_text('{"question": "2 + 2?", "text": "the 4"}\n' * 4)
  source = {"source": "jsonl", "path": str(tmp_path / "a.jsonl"), "prompt_field": "question"}
  values = sft_mini.get_config().to_dict() | {"init": str(talker), "model": {}}
  read = []
  load = HFTokenizer.load
  monkeypatch.setattr(HFTokenizer, "load", lambda folder: read.append(folder) or load(folder))
  sft_job({**values, "data": source | {"batch": 2, "length": 64}})
  assert len(read) == 2  # to know which it is, and its turns
  job = grpo_job(rl_values(talker, tokenizer=str(talker)))
  assert len(read) == 3 and job.rl.rollout.template == "turns"
  assert resolve_tokenizer(str(talker), str(talker)) == str(talker) and len(read) == 3


def test_logits_are_matched_over_one_tokenizer_only(talker, tmp_path):
  values = distill_mini.get_config().to_dict()
  values |= {"teacher": str(talker), "mix": 1.0, "model": {"preset": "v3_mini"}}
  job = distill_job(values)
  assert job.traces.template == "turns" and job.data.template == "plain"  # each in its own form
  with pytest.raises(ConfigError, match="logits are of different tokens; set mix to 0"):
    run_distill(job, tmp_path / "run")
