"""The reward model's job and the scorer that comes of it."""

import json
import shutil

import jax
import numpy as np
import pytest

import deepseek_jax as ds
from configs import base
from deepseek_jax.config import ConfigError
from deepseek_jax.data.preference_batches import lay_out
from deepseek_jax.data.preferences import Preference, text_tokens
from deepseek_jax.evaluate.results import read_results
from deepseek_jax.model.reward import text_rewards
from deepseek_jax.rl.grpo_job import grpo_job, run_grpo
from deepseek_jax.rl.learned_reward import LearnedReward
from deepseek_jax.rl.reward_accuracy import accuracy_figures
from deepseek_jax.rl.reward_job import reward_model_job, run_reward_model
from deepseek_jax.rl.reward_model import load_reward_model
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.pretrain_job import run_pretrain
from tests.experiments.test_configs import job

MODEL = {
  "preset": "v3_mini",
  "d_model": 32,
  "layers": 2,
  "heads": 2,
  "dense_ff": 64,
  "attention": {"q_latent": 16, "kv_latent": 16, "nope_dim": 8, "rope_dim": 4, "v_dim": 8},
  "moe": {"expert_ff": 16},
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  """Sums whose right answers are praised in their own words: one of them is told apart by sight."""
  path = tmp_path_factory.mktemp("records") / "pairs.jsonl"
  rng = np.random.default_rng(0)
  lines = []
  for _ in range(240):
    a, b = rng.integers(0, 100, 2)
    prompt = f"sum {a} {b} ?"
    good, bad = f"{a} right {b}", f"{a} wait {b}"
    lines.append({"prompt": prompt, "chosen": good, "rejected": bad})
    lines.append({"prompt": prompt, "response": good, "label": True})
    lines.append({"prompt": prompt, "response": bad, "label": False})
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return path


def config(path, **changes):
  made = base.reward_model(
    model=MODEL,
    data={"source": "jsonl", "path": str(path), "length": 32, "batch": 32, "heldout": 0.2},
    peak=1e-2,
    warmup=2,
    evaluation={"every": 10},
  )
  made.update(changes)
  return made.to_dict()


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("reward")
  state, figures = run_reward_model(reward_model_job(config(records)), workdir)
  return workdir, state, figures


def test_what_was_held_out_is_judged_right(trained):
  workdir, _, figures = trained
  found = {f["metric"]: f for f in figures}
  assert set(found) == {"pair_accuracy", "label_accuracy"}
  for one in found.values():
    low, high = one["ci95"]
    assert 0.9 < low <= one["value"] <= high <= 1
    assert one["benchmark"] == "pairs.jsonl held out"
  assert found["label_accuracy"]["samples"] == 2 * found["pair_accuracy"]["samples"]
  assert read_results(workdir / "results.json")["figures"] == figures
  assert "label_accuracy" in (workdir / "report.html").read_text()


def test_metrics_tell_the_course(trained):
  records = read_metrics(trained[0] / "metrics.jsonl")
  np.testing.assert_allclose(records[0]["loss"] - 1e-4 * records[0]["balance"], np.log(2), 1e-4)
  assert all(record["max_violation"] > 0 for record in records)
  measured = {
    r["step"]: r["heldout_pair_accuracy"] for r in records if "heldout_pair_accuracy" in r
  }
  assert list(measured) == list(range(10, len(records) + 1, 10))
  assert measured[max(measured)] > 0.9


def test_the_scorer_is_the_naive_forward_one_text_at_a_time(trained):
  workdir, state, _ = trained
  scorer = load_reward_model(workdir)
  rng = np.random.default_rng(1)
  prompts = [f"sum {i} {i + 1} ?" for i in range(23)]
  texts = [" ".join(map(str, rng.integers(0, 99, 1 + 4 * i))) for i in range(23)]
  reward_N = scorer(prompts, texts)
  naive = jax.jit(lambda *rows: text_rewards(scorer.model, state.weights, *rows)[0])
  for i in (0, 5, 11, 22):
    tokens = text_tokens(scorer.tokenizer, prompts[i], texts[i], "plain")
    alone = naive(*lay_out([tokens], 1, len(tokens), scorer.tokenizer.pad_id))
    np.testing.assert_allclose(reward_N[i], alone[0], rtol=1e-4, atol=1e-4)
  again = scorer(prompts[::-1], texts[::-1])[::-1]
  np.testing.assert_allclose(again, reward_N, rtol=1e-4, atol=1e-4)
  assert reward_N.dtype == np.float32 and scorer([], []).shape == (0,)


def test_conversations_score_as_the_question_in_them(trained):
  scorer = ds.load_reward_model(trained[0])
  asked = [[{"role": "user", "content": "sum 1 2 ?"}], "sum 1 2 ?"]
  first, second = scorer(asked, ["1 right 2"] * 2)
  np.testing.assert_allclose(first, second, rtol=1e-5)


def test_what_cannot_be_scored_is_named(trained):
  scorer = load_reward_model(trained[0])
  with pytest.raises(ConfigError, match="2 prompts and 1 texts"):
    scorer(["sum 1 2 ?"] * 2, ["3"])
  with pytest.raises(ConfigError, match="text 1 has 604 tokens; the reward model reads 1 to 512"):
    scorer(["?", "sum 1 2 ?"], ["3", "3 " * 599])
  with pytest.raises(ConfigError, match="does not know 'hello'"):
    scorer(["hello"], ["3"])
  asked = [{"role": "user", "content": "sum 1 2 ?"}]
  with pytest.raises(ConfigError, match="prompt 1 is a conversation of several turns"):
    scorer([asked, asked * 2], ["3", "3"])
  with pytest.raises(ConfigError, match="prompt 0 has {'role': 'user'}"):
    scorer([[{"role": "user"}]], ["3"])


def test_a_reward_model_is_no_language_model_and_the_other_way_round(trained, tmp_path):
  with pytest.raises(ConfigError, match="holds a reward model, which judges texts"):
    ds.load(trained[0])
  run_pretrain(job("pretrain_tiny", train={"steps": 1}), tmp_path / "language")
  with pytest.raises(ConfigError, match="without a reward head"):
    load_reward_model(tmp_path / "language")


def test_training_goes_on_from_a_reward_model(trained, records, tmp_path):
  """With its head: the first step of the new run already judges as the old one did."""
  pairs = tmp_path / "pairs.jsonl"
  pairs.write_text("".join(x for x in records.read_text().splitlines(True) if "chosen" in x))
  values = config(pairs, init=str(trained[0]), train={"steps": 1}, evaluation={"every": 1})
  del values["model"]
  run_reward_model(reward_model_job(values), tmp_path / "more")
  first = read_metrics(tmp_path / "more" / "metrics.jsonl")[0]
  assert first["heldout_pair_accuracy"] == trained[2][0]["value"]
  assert first["loss"] < 0.5 and first["pairs"] == 16
  assert not [name for name in first if "label" in name]  # there are none, and nothing is said


def test_accuracy_is_a_mean_over_prompts():
  held = [
    Preference(((5,), (4,)), None, "a"),
    Preference(((5,), (6,)), None, "a"),
    Preference(((5,), (5,)), None, "b"),
    Preference(((3,),), 1.0, "b"),
  ]
  figures = accuracy_figures(lambda texts: np.array([t[0] for t in texts]), held, "x", "s", 0)
  pairs, labels = figures
  assert (pairs["value"], pairs["samples"]) == (0.5, 3)
  assert (labels["metric"], labels["value"], labels["samples"]) == ("label_accuracy", 1.0, 1)
  assert accuracy_figures(None, [], "x", "s", 0) == []


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"data": {"length": 1000}}, "data.length is 1000"),
    ({"mesh": {"fsdp": 3}}, "data.batch is 32"),
    ({"peak": -1.0}, "peak is -1.0"),
    ({"train": {"log_every": 3}}, "evaluation.every is 10"),
    ({"data": {"heldout": 0.0}}, "evaluation.every is 10, but data.heldout is 0"),
  ],
)
def test_impossible_jobs_are_named(records, changes, named):
  with pytest.raises(ConfigError, match=named):
    reward_model_job(config(records, **changes))


def reinforcement(reward, **rollout):
  """Two iterations of GRPO, whose reward a reward model has a part in."""
  shape = {"prompts": 4, "group": 2, "max_new": 8, "width": 40, "rows": 4, "updates": 1}
  learned = {"weight": 0.5, "model": str(reward)}
  rollout = {**shape, "reward": {"learned": learned}, "advantage": {"truncated": "keep"}, **rollout}
  made = base.grpo(model=MODEL, train={"steps": 2}, task="tiny", rl={"rollout": rollout})
  return made.to_dict()


def test_its_figure_is_part_of_the_reward_in_reinforcement(trained, tmp_path):
  workdir, *_ = trained
  run_grpo(grpo_job(reinforcement(workdir)), tmp_path)
  samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
  assert len(samples) == 8
  judge, readable = load_reward_model(workdir), 0
  for one in samples:
    try:
      (figure,) = judge([one["prompt"]], [one["text"]])
    except ConfigError:  # a random model also says what has no word
      continue
    readable += 1
    assert one["parts"]["learned"] == pytest.approx(figure, abs=1e-4)
    rest = one["parts"]["correct"] + 0.1 * one["parts"]["format"]
    assert one["reward"] == pytest.approx(rest + 0.5 * one["parts"]["learned"], abs=1e-5)
  assert readable
  logged = read_metrics(tmp_path / "metrics.jsonl")
  assert all(record["reward_learned_std"] > 0 and "correct" in record for record in logged)


def test_a_run_does_not_go_on_with_another_reward_model(trained, records, tmp_path):
  workdir = tmp_path / "reward"
  shutil.copytree(trained[0], workdir)
  values = reinforcement(workdir)
  run_grpo(grpo_job(values), tmp_path / "rl")
  noted = json.loads((tmp_path / "rl" / "reward_model.json").read_text())
  assert noted == {str(workdir): load_reward_model(trained[0]).digest}
  values["train"]["steps"] = 3
  run_grpo(grpo_job(values), tmp_path / "rl")
  shutil.rmtree(workdir)
  more = config(records, init=str(trained[0]), train={"steps": 1}, evaluation={"every": 1})
  run_reward_model(reward_model_job({k: v for k, v in more.items() if k != "model"}), workdir)
  values["train"]["steps"] = 4
  with pytest.raises(ConfigError, match="the reward model is not the one that the run in"):
    run_grpo(grpo_job(values), tmp_path / "rl")
  assert read_metrics(tmp_path / "rl" / "metrics.jsonl")[-1]["step"] == 3


def test_what_cannot_judge_a_rollout_is_refused(trained, tmp_path):
  workdir, *_ = trained
  context = load_reward_model(workdir).model.config.max_context
  too_wide = reinforcement(workdir, width=context)
  with pytest.raises(ConfigError, match=f"rollout.width is {context}; the reward model in"):
    run_grpo(grpo_job(too_wide), tmp_path / "wide")
  with pytest.raises(ConfigError, match="nowhere"):
    run_grpo(grpo_job(reinforcement(tmp_path / "nowhere")), tmp_path / "none")
  assert not list(tmp_path.iterdir()), "no workdir is claimed by what cannot begin"


def test_a_completion_that_cannot_be_read_ends_nothing(trained, capsys):
  judge = LearnedReward(load_reward_model(trained[0]))
  context = judge.model.model.config.max_context
  texts = ["3 right 4", "\ufffd", "3 wait 4", "3 " * context]
  found = judge(["sum 3 4 ?"] * 4, texts)
  good, bad = judge.model(["sum 3 4 ?"] * 2, [texts[0], texts[2]])
  assert good > bad
  np.testing.assert_allclose(found, [good, bad, bad, bad], atol=1e-4)
  told = capsys.readouterr().err
  assert "could not read 2 of 4 completions" in told and "does not know" in told
  assert judge(["sum 3 4 ?"], ["\ufffd"]) == [0]
