"""experiments.grpo, sft and distill as a user runs them, each on the model of the one before."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from deepseek_jax.evaluate.results import read_results
from deepseek_jax.train.metrics import read_metrics
from experiments.program import DIVERGED
from tests import killing

TASK = "isolated:tests.positive_task:Positive"  # its verifier in processes of its own
ITERATIONS = 8
DISTILL_EPOCHS = 8


@pytest.fixture(scope="module")
def cache():
  """The user's cache, for programs that compile quickly rather than well."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if jax.__version_info__ < (0, 11):  # as in tests/conftest.py
      patch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false", prepend=" ")
    yield None


@pytest.fixture(scope="module")
def base(tmp_path_factory, cache):
  """A base model that has learnt to end its answers."""
  workdir = tmp_path_factory.mktemp("base")
  arguments = ["--config=configs/pretrain_tiny.py", f"--workdir={workdir}"]
  killing.run("experiments.pretrain", arguments, cache)
  return workdir


def grpo(workdir, base):
  return [
    "--config=configs/grpo_tiny.py",
    f"--workdir={workdir}",
    f"--config.init={base}",
    f"--config.task={TASK}",
    f"--config.train.steps={ITERATIONS}",
  ]


@pytest.fixture(scope="module")
def reinforced(tmp_path_factory, cache, base):
  workdir = tmp_path_factory.mktemp("reinforced")
  killing.run("experiments.grpo", grpo(workdir, base), cache)
  return workdir


def test_grpo_logs_every_iteration(reinforced):
  records = read_metrics(reinforced / "metrics.jsonl")
  assert [r["step"] for r in records] == list(range(1, ITERATIONS + 1))
  assert sum(r["updates"] for r in records) > ITERATIONS, "most iterations must have two"
  updated = [r for r in records if r["updates"]]
  assert max(r["mismatch"] for r in updated) < 1e-4
  assert max(r["experts_differ"] for r in updated) < 1e-3
  assert max(r["kl"] for r in updated) > 0
  assert json.loads((reinforced / "config.json").read_text())["task"] == TASK


EVALUATION = [
  "--config.evaluation.every=3",
  "--config.evaluation.problems=8",
  "--config.evaluation.samples=4",
]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, cache, base):
  """The same run, measured on held-out problems meanwhile."""
  workdir = tmp_path_factory.mktemp("evaluated")
  told = killing.run("experiments.grpo", [*grpo(workdir, base), *EVALUATION], cache)
  assert told.count("held out after step ") == 4
  return workdir


def test_grpo_that_is_measured_learns_what_it_learns_unmeasured(evaluated, reinforced):
  killing.assert_same_outcome(evaluated, reinforced)
  records = read_metrics(evaluated / "evaluations.jsonl")
  assert [r["step"] for r in records] == [0, 3, 6, ITERATIONS]
  figures = read_results(evaluated / "results.json")["figures"]
  assert figures[: len(records[0]["figures"])] == records[0]["figures"]
  assert {f["stage"] for f in figures} == {"step 0", "step 3", "step 6", f"step {ITERATIONS}"}
  assert {"pass@1", "pass@4", "pass@1 over step 0"} <= {f["metric"] for f in figures}
  page = (evaluated / "report.html").read_text(encoding="utf-8")
  for heading in ("Held-out problems", "Rewards", "Training", "Figures", "Samples", "Thoughts"):
    assert f"<h2>{heading}</h2>" in page
  assert f"ended after step {ITERATIONS}" in page
  without = (reinforced / "report.html").read_text(encoding="utf-8")
  assert "all weights" in without
  assert "<h2>Rewards</h2>" in without and "Held-out" not in without


@pytest.mark.parametrize(("kills", "seed"), [(2, 0), pytest.param(10, 1, marks=pytest.mark.slow)])
def test_grpo_killed_and_restarted_is_the_run_undisturbed(
  tmp_path, cache, base, evaluated, kills, seed
):
  arguments = [*grpo(tmp_path, base), *EVALUATION]
  happened = killing.run_with_kills(
    "experiments.grpo", arguments, tmp_path, cache, ITERATIONS, kills, seed
  )
  assert happened >= 1
  killing.assert_same_outcome(tmp_path, evaluated)
  for name in ("samples.jsonl", "evaluations.jsonl"):
    assert (tmp_path / name).read_bytes() == (evaluated / name).read_bytes()


def test_grpo_that_stops_at_its_first_iteration_leaves_what_was_measured(tmp_path, cache, base):
  beyond = ["--config.rl.largest_gap=1e-12", "--config.train.log_every=5"]
  told = killing.run("experiments.grpo", [*grpo(tmp_path, base), *beyond], cache, status=DIVERGED)
  assert "more than rl.largest_gap, 1e-12; training stops" in told and "there is none" in told
  *_, record = read_metrics(tmp_path / "metrics.jsonl")
  assert 1e-12 < record["mismatch"] < 1e-4 and record["stopped"] in told
  said = read_metrics(tmp_path / "samples.jsonl")
  assert {one["step"] for one in said} >= {record["step"]}
  page = (tmp_path / "report.html").read_text(encoding="utf-8")
  assert record["stopped"] in page and said[0]["prompt"] in page


def test_grpo_keeps_samples_with_what_they_earned(reinforced):
  lines = (reinforced / "samples.jsonl").read_text(encoding="utf-8").splitlines()
  records = [json.loads(line) for line in lines]
  assert [r["step"] for r in records] == [n for n in range(1, ITERATIONS + 1) for _ in range(4)]
  for one in records:
    assert list(one["parts"]) == ["correct", "format"]
    scored = one["parts"]["correct"] + 0.1 * one["parts"]["format"]
    assert one["reward"] == pytest.approx(0 if one["truncated"] else scored)
    assert one["kept"] or one["advantage"] == 0
  assert any(one["kept"] for one in records) and all(one["prompt"] for one in records)


@pytest.mark.slow
def test_grpo_with_penalties_more_rounds_and_correction_ends_beyond_its_gap(tmp_path, cache, base):
  arguments = [
    *grpo(tmp_path, base)[:-1],
    "--config.rl.rollout.dynamic=1",
    "--config.rl.rollout.reward.overlong.weight=0.5",
    "--config.rl.rollout.reward.overlong.buffer=4",
    "--config.rl.rollout.reward.repetition.weight=0.2",
    "--config.rl.rollout.advantage.truncated=keep",
    "--config.rl.correction=token",
  ]
  killing.run("experiments.grpo", [*arguments, "--config.train.steps=2"], cache)
  records = read_metrics(tmp_path / "metrics.jsonl")
  assert len(records) == 2
  for record in records:
    assert record["prompts_drawn"] == 4 * record["rounds"] <= 8
    assert {"reward_overlong", "reward_overlong_std", "reward_repetition", "dropped"} <= set(record)
    if record["updates"]:
      assert record["mismatch_mean"] <= record["mismatch"] < 1e-4 and record["capped"] == 0
  beyond = ["--config.rl.largest_gap=1e-12", "--config.train.steps=8"]
  told = killing.run("experiments.grpo", [*arguments, *beyond], cache, status=DIVERGED)
  assert "more than rl.largest_gap, 1e-12; training stops" in told
  assert len(read_metrics(tmp_path / "metrics.jsonl")) < 8


def preflight(workdir, base, *arguments):
  """Status, standard output and standard error of the job's preflight."""
  command = [sys.executable, "-m", "experiments.grpo", *grpo(workdir, base), "--preflight"]
  done = subprocess.run(
    [*command, *arguments],
    cwd=killing.ROOT,
    env=killing.program_environment(None),
    capture_output=True,
    text=True,
    timeout=600,
  )
  return done.returncode, done.stdout, done.stderr


def test_a_preflight_tells_what_a_run_would_meet_and_leaves_nothing(tmp_path, cache, base):
  workdir, out = tmp_path / "run", tmp_path / "figures.json"
  status, told, errors = preflight(workdir, base, f"--preflight_out={out}")
  assert status == 0, told + errors
  found = json.loads(out.read_text())
  levels = {finding["name"]: finding["level"] for finding in found["findings"]}
  assert set(levels) == {
    "memory", "disk", "pass", "groups", "reward", "cut off", "lengths", "prompts", "format",
    "language", "verifier", "judging", "update", "time",
  }  # fmt: skip
  assert found["level"] == max(levels.values(), key=("green", "amber", "red").index) != "red"
  assert all(f"{level:<5}  {name:<9}  " in told for name, level in levels.items())
  assert f"of {ITERATIONS} iterations of 4 prompts x 4 samples on {TASK}" in told
  assert "nothing was trained and nothing kept" in told
  assert list(tmp_path.iterdir()) == [out]


def test_a_preflight_that_finds_red_ends_with_status_1(tmp_path, cache, base):
  status, told, _ = preflight(
    tmp_path / "run", base, "--config.rl.rollout.max_new=1", "--preflight_prompts=2"
  )
  assert status == 1
  assert "red    cut off    " in told and "raise rl.rollout.max_new" in told
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    (["--preflight_prompts=4"], "--preflight_prompts is for --preflight"),
    (["--preflight", "--preflight_out=/absent/file"], "/absent/file lies in no directory"),
    (
      ["--preflight", "--preflight_keep=pyproject.toml", "--config.task=chosen:pyproject.toml"],
      "is a file that config.task names; name another",
    ),
    (["--preflight", "--preflight_prompts=1"], "--preflight_prompts is 1; give at least 2"),
  ],
)
def test_flags_of_a_preflight_that_cannot_be_are_one_sentence(
  tmp_path, cache, base, arguments, told
):
  errors = killing.run("experiments.grpo", [*grpo(tmp_path / "run", base), *arguments], cache, 2)
  assert told in errors and len(errors.strip().splitlines()) == 1
  assert list(tmp_path.iterdir()) == []


def distill(workdir, base, teacher, mix):
  return [
    "--config=configs/distill_mini.py",
    f"--workdir={workdir}",
    f"--config.teacher={teacher}",
    f"--config.init={base}",
    f"--config.data.task={TASK}",
    "--config.data.batch=4",
    "--config.data.length=48",
    "--config.traces.prompts=24",
    "--config.traces.keep=4",
    "--config.traces.max_new=32",
    "--config.train.checkpoint_every=2",
    "--config.engine_batch=32",
    f"--config.mix={mix}",
    f"--config.data.epochs={DISTILL_EPOCHS}",
  ]


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, cache, base, reinforced):
  workdir = tmp_path_factory.mktemp("distilled")
  killing.run("experiments.distill", distill(workdir, base, reinforced, 0.5), cache)
  return workdir


def test_distillation_on_logits_keeps_its_traces(distilled):
  traces = [json.loads(line) for line in (distilled / "traces.jsonl").read_text().splitlines()]
  assert len(traces) > 4 and all(int(t["text"].split()[0]) > 0 for t in traces)
  records = read_metrics(distilled / "metrics.jsonl")
  assert all(r["divergence"] > 0 for r in records)
  first, *_, last = np.array_split([r["loss"] for r in records], DISTILL_EPOCHS)
  assert first.mean() > last.mean()  # the mix falls; near its teacher, text alone may lead away


def sft(workdir, base, distilled):
  return [
    "--config=configs/sft_mini.py",
    f"--workdir={workdir}",
    f"--config.init={base}",
    f"--config.data.path={distilled / 'traces.jsonl'}",
    "--config.data.batch=4",
    "--config.data.length=48",
    "--config.data.epochs=4",
    "--config.train.checkpoint_every=3",
  ]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, cache, base, distilled):
  workdir = tmp_path_factory.mktemp("tuned")
  killing.run("experiments.sft", sft(workdir, base, distilled), cache)
  return workdir


def test_sft_learns_each_answer_in_each_epoch(tuned, distilled):
  traces = [json.loads(line) for line in (distilled / "traces.jsonl").read_text().splitlines()]
  answers = sum(len(t["text"].split()) + 1 for t in traces)  # each ended by eos
  records = read_metrics(tuned / "metrics.jsonl")
  assert sum(r["tokens"] for r in records) == 4 * answers
  page = (tuned / "report.html").read_text(encoding="utf-8")
  assert "<h2>Training</h2>" in page and "Fine-tuning" in page
  assert records[-1]["ce"] < records[0]["ce"]


@pytest.mark.slow
def test_sft_killed_and_restarted_is_the_run_undisturbed(tmp_path, cache, base, distilled, tuned):
  records = len(read_metrics(tuned / "metrics.jsonl"))
  arguments = sft(tmp_path, base, distilled)
  assert killing.run_with_kills("experiments.sft", arguments, tmp_path, cache, records, 10, 2) > 1
  killing.assert_same_outcome(tmp_path, tuned)


@pytest.mark.slow
def test_distill_killed_and_restarted_is_the_run_undisturbed(
  tmp_path, cache, base, reinforced, distilled
):
  records = len(read_metrics(distilled / "metrics.jsonl"))
  arguments = distill(tmp_path, base, reinforced, 0.5)
  module = "experiments.distill"
  assert killing.run_with_kills(module, arguments, tmp_path, cache, records, 5, 3) > 0
  killing.assert_same_outcome(tmp_path, distilled)
