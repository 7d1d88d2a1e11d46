"""experiments.r1 as a user runs it: the whole graph, killed and resumed, and fed with bad input."""

import json

import pytest

from deepseek_jax import api
from deepseek_jax.config import ConfigError
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.evaluate.figures import STAGES
from deepseek_jax.recipe.graph import GRAPH
from deepseek_jax.recipe.ledger import WALL_CLOCK
from deepseek_jax.recipe.summary import CLAIMS
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.start import load_start
from tests import killing

MODULE = "experiments.r1"
SMALL = (
  "--config=configs/r1_tiny.py",
  "--config.save_every=100",
  "--config.evaluation.problems=4",
)


def arguments(workdir, *more):
  return [*SMALL, f"--workdir={workdir}", *more]


@pytest.fixture(scope="module")
def cache():
  """The user's cache of compiled programs; experiments.pretrain is killed with a new one."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
  workdir = tmp_path_factory.mktemp("r1") / "run"
  killing.run(MODULE, arguments(workdir), cache)
  return workdir


def record(workdir, stage):
  """A stage's record without what depends on the machine."""
  fields = json.loads((workdir / "stages" / f"{stage}.json").read_text())
  fields["entry"] = {k: v for k, v in fields["entry"].items() if k not in WALL_CLOCK}
  return fields


def test_leaves_what_a_workdir_holds(undisturbed):
  results = json.loads((undisturbed / "results.json").read_text())
  assert set(results) == {"figures", "wall_seconds", "ledger"}
  assert {f["stage"] for f in results["figures"]} == set(STAGES) == {n.stage for n in GRAPH}
  for f in results["figures"]:
    assert set(f) == {"stage", "benchmark", "metric", "value", "ci95", "samples", "seed"}
    assert f["ci95"][0] <= f["value"] <= f["ci95"][1]
  decodings = {f["benchmark"].split()[1] for f in results["figures"]}
  assert decodings == {"greedy", "T=0.6", "T=1"}
  gains = [f for f in results["figures"] if " over " in f["metric"]]
  assert len(gains) == len(CLAIMS) * len(decodings)
  page = (undisturbed / "report.html").read_text()
  assert all(stage in page for stage in STAGES)
  assert "<img" in page and 'src="http' not in page
  assert list((undisturbed / "tensorboard" / "r1_zero").glob("events.*"))


def test_ledger_says_what_every_stage_took(undisturbed):
  ledger = {e["stage"]: e for e in json.loads((undisturbed / "results.json").read_text())["ledger"]}
  assert ledger["base"]["tokens_trained"] == 300 * 12 * 144
  for stage in ("cold_start", "sft2", "distilled"):
    counts = dict(ledger[stage]["selection"])
    assert counts.pop("sampled") == sum(counts.values())
    assert ledger[stage]["tokens_sampled"] > 0
  rows = [r for r in read_metrics(undisturbed / "metrics.jsonl") if r["stage"] == "r1_zero"]
  assert ledger["r1_zero"]["tokens_sampled"] == sum(r["sampled_tokens"] for r in rows)
  assert all(entry["train_flops"] > 0 for entry in ledger.values())


def test_few_programs_are_compiled(undisturbed):
  """With an empty cache, in one process: the whole recipe on two architectures."""
  ledger = json.loads((undisturbed / "results.json").read_text())["ledger"]
  assert 0 < sum(entry["programs"] + entry["cached"] for entry in ledger) <= 60


def test_sampling_and_training_agree(undisturbed):
  for row in read_metrics(undisturbed / "metrics.jsonl"):
    if row.get("updates"):
      assert row["mismatch"] < 1e-4
      assert row["experts_differ"] < 1e-3


@pytest.mark.parametrize(("kills", "seed"), [(2, 0), pytest.param(10, 1, marks=pytest.mark.slow)])
def test_killed_and_resumed_is_the_run_undisturbed(tmp_path, cache, undisturbed, kills, seed):
  records = len(read_metrics(undisturbed / "metrics.jsonl"))
  happened = killing.run_with_kills(
    MODULE, arguments(tmp_path), tmp_path, cache, records, kills, seed
  )
  assert happened >= 2
  killing.assert_same_outcome(tmp_path, undisturbed)
  for stage in STAGES:
    assert record(tmp_path, stage) == record(undisturbed, stage), stage


def test_exports_load_with_the_trained_weights(undisturbed):
  for stage in ("r1", "distilled"):
    exported = api.load(undisturbed / "export" / stage)
    trained = api.load(undisturbed, stage)
    tokens_BT = [load_tokenizer("word").encode("make 8 from 3 7 2 ?")]
    assert (exported.logits(tokens_BT) == trained.logits(tokens_BT)).all()


def test_a_job_starts_from_an_export_and_is_told_so(undisturbed):
  config, _, tokenizer = load_start(undisturbed / "export" / "r1")
  assert config == api.load(undisturbed, "r1").config and tokenizer is not None
  with pytest.raises(ConfigError, match="export/r1"):
    load_start(undisturbed)


@pytest.mark.parametrize(
  ("flag", "named"),
  [
    ("--config.base.rate=0.1", "base.rate"),
    ("--config.teacher.moe.top_k=9", "moe.top_k"),
    ("--config.r1_zero.rl.kl=k4", "rl.kl"),
    ("--config.tokenizer=nowhere", "nowhere"),
    ("--config.task=nowhere:task", "nowhere"),
    ("--config.base.stops=3", "stops"),
    ("--config.base.steps=many", "steps"),
  ],
)
def test_bad_input_is_one_sentence(undisturbed, cache, flag, named):
  before = sorted(p.name for p in undisturbed.iterdir())
  errors = killing.run(MODULE, arguments(undisturbed, flag), cache, status=2)
  message = [line for line in errors.splitlines() if not line.startswith(("WARNING", "I0", "W0"))]
  assert len(message) == 1 and named in message[0], errors
  assert sorted(p.name for p in undisturbed.iterdir()) == before
