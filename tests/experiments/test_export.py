"""The export program, as a user runs it."""

import dataclasses
import pathlib
import subprocess
import sys

import jax
import numpy as np

from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.hub.safetensors import abstract_weights, load_pretrained, save_pretrained
from deepseek_jax.presets import preset

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = dataclasses.replace(preset("v3_mini"), layers=2)


def export(*flags):
  command = [sys.executable, "-m", "experiments.export", *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_exports_what_it_is_given(tmp_path):
  rng = np.random.default_rng(0)
  weights = jax.tree.map(
    lambda leaf: jax.numpy.asarray(rng.standard_normal(leaf.shape), "bfloat16").astype("float32"),
    abstract_weights(CONFIG),
  )
  save_pretrained(tmp_path / "in", CONFIG, weights, load_tokenizer("byte"))
  done = export(f"--model={tmp_path}/in", f"--out={tmp_path}/out", "--dtype=bfloat16")
  assert done.returncode == 0, done.stderr
  config, read, tokenizer = load_pretrained(tmp_path / "out")
  assert config == CONFIG and tokenizer.eos_id == load_tokenizer("byte").eos_id
  assert all(map(np.array_equal, jax.tree.leaves(read), jax.tree.leaves(weights)))
  halved = (tmp_path / "out" / "model.safetensors").stat().st_size
  assert halved < 0.6 * (tmp_path / "in" / "model.safetensors").stat().st_size


def test_bad_input_ends_in_one_sentence(tmp_path):
  done = export(f"--model={tmp_path}/absent", f"--out={tmp_path}/out")
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert "absent does not exist" in done.stderr and not (tmp_path / "out").exists()
