"""The generate program, as a user runs it."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import deepseek_jax as ds
from deepseek_jax.config import ConfigError, to_dict
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.hub.safetensors import abstract_weights, save_pretrained
from deepseek_jax.presets import preset
from experiments.generate import architecture

ROOT = pathlib.Path(__file__).parents[2]
WORDS = load_tokenizer("word").vocab_size
CONFIG = dataclasses.replace(
  preset("v3_mini"), layers=1, moe=None, mtp_depth=0, max_context=64, vocab=WORDS
)
PROMPT = "make 8 from 3 7 2 ?"


def generate(*flags):
  command = [sys.executable, "-m", "experiments.generate", *flags]
  quick = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
  return subprocess.run(command, cwd=ROOT, env=quick, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model") / "mini"
  rng = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda leaf: jax.numpy.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
    abstract_weights(CONFIG),
  )
  save_pretrained(folder, CONFIG, weights, load_tokenizer("word"))
  return folder


def test_json_says_all_that_is_known_of_a_reply(folder):
  done = generate(
    f"--model={folder}", f"--prompt={PROMPT}", "--json", "--think", "--max_new=12", "--seed=3",
    "--temperature=0.7", "--top_k=40", "--stop=never", "--stop=ever",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  record = json.loads(done.stdout)
  sampling = {"max_new": 12, "temperature": 0.7, "top_p": 1.0, "top_k": 40, "seed": 3}
  assert sampling.items() <= record.items()
  assert record["prompt"] == PROMPT and record["stop"] == ["never", "ever"]
  assert not record["closed"] and record["answer"] == "" and record["finish_reason"] == "length"
  reply = ds.load(folder).chat(PROMPT, 12, 0.7, 1.0, 3, 40, think=True)
  assert "tokens_per_second" in record
  expected = reply.record() | {"tokens_per_second": record["tokens_per_second"]}
  assert expected.items() <= record.items()


def test_memory_needs_no_weights():
  done = generate("--memory", "--model=v2_lite", "--length=1000", "--batch=3")
  assert done.returncode == 0, done.stderr
  assert "31,104 B per token: 93.31 MB" in done.stdout


@pytest.mark.parametrize("length", ["0", "163841"])
def test_memory_is_of_lengths_within_the_context(length):
  done = generate("--memory", "--model=v2_lite", f"--length={length}")
  assert done.returncode == 2 and not done.stdout
  assert done.stderr == f"--length is {length}; give 1 to 163840, which is the model's context.\n"


def test_flags_of_memory_are_refused_without_it():
  done = generate("--model=absent", "--prompt=x", "--batch=0")
  assert done.returncode == 2
  assert done.stderr == "--batch is for --memory; leave it out, or add --memory.\n"


def test_architectures_are_found_by_many_names(folder, tmp_path):
  assert architecture(str(folder)) == (str(folder), CONFIG)
  assert [architecture(name)[0] for name in ("v3", "r1", "v2", "v2_lite", "v3_mini")] == [
    "v3_671b", "r1_671b", "v2_236b", "v2_lite_16b", "v3_mini"
  ]  # fmt: skip
  recipe = {"teacher": to_dict(CONFIG), "student": to_dict(preset("smollm2_135m"))}
  (tmp_path / "config.json").write_text(json.dumps(recipe))
  assert architecture(str(tmp_path))[1] == CONFIG
  assert architecture(str(tmp_path), "distilled")[1] == preset("smollm2_135m")
  with pytest.raises(ConfigError, match="stage 'x' is none of"):
    architecture(str(tmp_path), "x")
  distilled = {"teacher": "runs/r1", "model": to_dict(CONFIG)}
  (tmp_path / "config.json").write_text(json.dumps(distilled))
  assert architecture(str(tmp_path)) == (str(tmp_path), CONFIG)
  with pytest.raises(ConfigError, match="no directory, and no preset of v3_671b"):
    architecture("v9")


def test_bad_input_ends_in_one_sentence(folder):
  done = generate(f"--model={folder}", "--prompt=nonsense")
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert "does not know 'nonsense'" in done.stderr and not done.stdout
