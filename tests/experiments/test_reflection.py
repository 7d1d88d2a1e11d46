"""experiments.reflection as a user runs it: a model against its base, a file, and bad input."""

import dataclasses
import json
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
CONFIG = dataclasses.replace(preset("v3_mini"), layers=1, d_model=32, mtp_depth=0)
SMALL = ("--problems=6", "--samples=2", "--max_new=16", "--batch=4")
NAMES = ["completions.jsonl", "config.json", "report.html", "results.json"]


def run(*flags):
  command = [sys.executable, "-m", "experiments.reflection", *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """Hugging Face directories of random models, by name: two that read words and one bytes."""
  folder = tmp_path_factory.mktemp("models")
  for seed, (name, tokenizer) in enumerate({"a": "word", "b": "word", "c": "byte"}.items()):
    config = dataclasses.replace(CONFIG, vocab=max(CONFIG.vocab, 432))
    weights = jax.jit(lambda key, c=config: init_weights(Transformer(c), key))(jax.random.key(seed))
    save_pretrained(folder / name, config, weights, load_tokenizer(tokenizer))
  return folder


def test_a_model_beside_its_base_leaves_all_that_a_study_leaves(models, tmp_path):
  out = tmp_path / "out"
  done = run(
    f"--model={models}/a", f"--base={models}/b", "--benchmark=mini", f"--out={out}", *SMALL
  )
  assert done.returncode == 0, done.stderr
  assert sorted(p.name for p in out.iterdir()) == NAMES
  figures = json.loads((out / "results.json").read_text())["figures"]
  names = {(f["stage"], f["metric"]) for f in figures}
  for wanted in ("reflection_per_1000", "length", "rechecks", "pass@1"):
    assert {("a", wanted), ("b", wanted), ("a", f"{wanted} over b")} <= names
  for figure in figures:
    low, high = figure["ci95"]
    assert low <= figure["value"] <= high and figure["benchmark"].startswith("mini T=1 #")
  lines = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
  assert [line["stage"] for line in lines] == ["b"] * 12 + ["a"] * 12
  assert set(lines[0]) >= {"completion", "candidates", "reflection", "turns", "branches"}
  config = json.loads((out / "config.json").read_text())
  assert config["base"] == f"{models}/b" and config["template"] == "plain"
  assert "<title>Reflection of a on mini" in (out / "report.html").read_text()
  assert "pass@1 over b" in done.stdout


def test_a_file_of_numbers_greedily_and_without_branches(models, tmp_path):
  lines = [{"prompt": f"{n} + 1 ?", "answer": n + 1} for n in range(5)]
  (tmp_path / "five.jsonl").write_text("\n".join(map(json.dumps, lines)))
  done = run(f"--model={models}/c", f"--benchmark={tmp_path}/five.jsonl", f"--out={tmp_path}/out",
             "--temperature=0", "--max_new=8", "--batch=4", "--nobranches")  # fmt: skip
  assert done.returncode == 0, done.stderr
  figures = json.loads((tmp_path / "out" / "results.json").read_text())["figures"]
  assert {f["benchmark"].split(" #")[0] for f in figures} == {"five greedy"}
  assert not any(":" in f["metric"] or " over " in f["metric"] for f in figures)


BAD = {
  "no model": (("--benchmark=mini", "--out={out}"), "--model is missing"),
  "programs": (
    ("--model={a}", "--benchmark=code:{out}.jsonl@all", "--out={out}", "--allow_unsafe_execution"),
    "asks for programs, and reflection is read from the answers within a thought",
  ),
  "too few problems": (
    ("--model={a}", "--benchmark=mini", "--out={out}", "--problems=3"),
    "--problems is 3; intervals over problems need 5 at least",
  ),
  "another tokenizer": (
    ("--model={a}", "--base={c}", "--benchmark=mini", "--out={out}"),
    "has another tokenizer than --model",
  ),
  "a stage of no base": (
    ("--model={a}", "--base_stage=base", "--benchmark=mini", "--out={out}"),
    "--base_stage is of --base",
  ),
  "a word that is not known": (
    ("--model={a}", "--benchmark=mini", "--out={out}", "--word=hmm"),
    "the word tokenizer does not know 'hmm'",
  ),
  "a temperature below zero": (
    ("--model={a}", "--benchmark=mini", "--out={out}", "--temperature=-1"),
    "--temperature is -1.0",
  ),
}
SUM = {"prompt": "Sum.", "tests": [{"input": "1 2", "output": "3"}]}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(case, models, tmp_path):
  flags, sentence = BAD[case]
  (tmp_path / "out.jsonl").write_text(json.dumps(SUM))
  named = {"out": f"{tmp_path}/out", "a": f"{models}/a", "c": f"{models}/c"}
  done = run(*(flag.format(**named) for flag in flags))
  assert done.returncode == 2, done.stderr
  assert sentence in done.stderr and "Traceback" not in done.stderr
  assert not (tmp_path / "out").exists()
