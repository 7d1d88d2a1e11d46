"""experiments.pretrain as a user runs it: killed, told to end, and fed with bad input."""

import json
import signal
import subprocess
import sys
import time

import pytest

from deepseek_jax.train.metrics import read_metrics
from tests import killing

MODULE = "experiments.pretrain"
STEPS = 40


def arguments(workdir, *more):
  return [
    "--config=configs/pretrain_tiny.py",
    f"--workdir={workdir}",
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=5",
    "--config.micro_batches=2",
    *more,
  ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
  workdir = tmp_path_factory.mktemp("undisturbed")
  killing.run(MODULE, arguments(workdir), cache)
  return workdir


def test_leaves_what_a_workdir_holds(undisturbed):
  records = read_metrics(undisturbed / "metrics.jsonl")
  assert [r["step"] for r in records] == list(range(1, STEPS + 1))
  assert records[-1]["ce"] < records[0]["ce"] - 1
  assert records[-1]["tokens_seen"] == STEPS * 2 * 4 * 64
  assert json.loads((undisturbed / "config.json").read_text())["model"]["d_model"] == 32
  assert (undisturbed / "tokenizer" / "tokenizer.json").is_file()
  assert list((undisturbed / "tensorboard").glob("events.*"))
  assert sorted(p.name for p in (undisturbed / "checkpoints").iterdir()) == ["35", "40"]


@pytest.mark.parametrize(("kills", "seed"), [(3, 0), pytest.param(10, 1, marks=pytest.mark.slow)])
def test_killed_and_restarted_is_the_run_undisturbed(tmp_path, cache, undisturbed, kills, seed):
  happened = killing.run_with_kills(
    MODULE, arguments(tmp_path), tmp_path, cache, STEPS, kills, seed
  )
  assert happened >= 2
  killing.assert_same_outcome(tmp_path, undisturbed)


def test_sigterm_saves_and_ends_with_143(tmp_path, cache, undisturbed):
  process = killing.start(MODULE, arguments(tmp_path, "--config.train.steps=100000"), cache)
  while process.poll() is None and not read_metrics(tmp_path / "metrics.jsonl"):
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=300)
  assert process.returncode == 143
  assert "SIGTERM: saved after step" in errors
  saved = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == saved


# Imports the program once, then runs it in a fork per command line; jax has not started by then.
FORKS = """
import json, os, runpy, sys
import deepseek_jax.train.pretrain_job
for line in sys.stdin:
  name, *arguments = json.loads(line)
  out, into = os.pipe()
  if os.fork() == 0:
    os.dup2(into, 1), os.dup2(into, 2), os.close(into)
    sys.argv = ["pretrain", *arguments]
    runpy.run_module("experiments.pretrain", run_name="__main__", alter_sys=False)
    sys.exit(0)
  os.close(into)
  text = open(out).read()
  _, status = os.wait()
  print(json.dumps([name, os.waitstatus_to_exitcode(status), text]), flush=True)
"""

TINY = "--config=configs/pretrain_tiny.py"
TEXT = "--config.data.source=text"
BAD = {  # the mistake, and what its sentence must name
  "unknown field": ([TINY, "--config.train.stepz=3"], "stepz"),
  "no such number": ([TINY, "--config.train.steps=None"], "config.train.steps is None"),
  "negative seed": ([TINY, "--config.seed=-1"], "seed is -1"),
  "wrong type": ([TINY, "--config.train.steps=many"], "config.train.steps"),
  "impossible shape": ([TINY, "--config.model.moe.top_k=99"], "moe.top_k"),
  "no config": ([], "--config"),
  "missing config": (["--config=nowhere.py"], "nowhere.py"),
  "unknown flag": ([TINY, "--confg=x"], "confg"),
  "stray word": ([TINY, "resume"], "resume"),
  "no corpus": ([TINY, TEXT, "--config.data.path=nowhere"], "nowhere"),
  "empty corpus": ([TINY, TEXT, "--config.data.path=EMPTY"], "empty"),
  "bad profile": ([TINY, "--profile_steps=7"], "profile_steps"),
  "bad init": ([TINY, "--config.init=nowhere"], "nowhere"),
  "small vocabulary": ([TINY, "--config.model.vocab=17"], "model.vocab"),
  "too many devices": ([TINY, "--config.mesh.data=2"], "devices"),
}


@pytest.fixture(scope="module")
def bad_runs(tmp_path_factory):
  """Status, output and workdir of each bad command line."""
  folder = tmp_path_factory.mktemp("bad")
  (folder / "empty").mkdir()
  workdirs = {name: folder / name.replace(" ", "_") for name in BAD}
  lines = [
    [
      name,
      *(a.replace("EMPTY", str(folder / "empty")) for a in given),
      f"--workdir={workdirs[name]}",
    ]
    for name, (given, _) in BAD.items()
  ]
  done = subprocess.run(
    [sys.executable, "-c", FORKS],
    input="".join(json.dumps(line) + "\n" for line in lines),
    capture_output=True,
    text=True,
    cwd=killing.ROOT,
    env=killing.program_environment(folder),
    check=True,
  )
  answers = [json.loads(line) for line in done.stdout.splitlines()]
  return {name: (status, text, workdirs[name]) for name, status, text in answers}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_status_2(bad_runs, name):
  status, text, workdir = bad_runs[name]
  assert status == 2, text
  assert len(text.strip().splitlines()) == 1, text
  assert BAD[name][1] in text
  if name != "bad init":  # found when the workdir is there, and the sentence mends it
    assert not workdir.exists()


def test_another_configs_workdir_is_refused_and_untouched(undisturbed, cache):
  before = (undisturbed / "metrics.jsonl").read_bytes()
  errors = killing.run(MODULE, arguments(undisturbed, "--config.seed=1"), cache, status=2)
  assert "seed was 0 and is 1" in errors
  assert len(errors.strip().splitlines()) == 1
  assert (undisturbed / "metrics.jsonl").read_bytes() == before
