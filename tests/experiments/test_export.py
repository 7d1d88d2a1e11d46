"""The export program, as a user runs it."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np

from deepseek_jax import api
from deepseek_jax.data.tokenizer import load_tokenizer
from deepseek_jax.hub.safetensors import abstract_weights, load_pretrained, save_pretrained
from deepseek_jax.ops.fp8 import FP8Blocks
from deepseek_jax.presets import preset

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = dataclasses.replace(preset("v3_mini"), layers=2)


def export(*flags):
  command = [sys.executable, "-m", "experiments.export", *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def random_weights():
  """Normal values that bfloat16 holds."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jax.numpy.asarray(rng.standard_normal(leaf.shape), "bfloat16").astype("float32"),
    abstract_weights(CONFIG),
  )


def test_exports_what_it_is_given(tmp_path):
  weights = random_weights()
  save_pretrained(tmp_path / "in", CONFIG, weights, load_tokenizer("byte"))
  done = export(f"--model={tmp_path}/in", f"--out={tmp_path}/out", "--dtype=bfloat16")
  assert done.returncode == 0, done.stderr
  config, read, tokenizer = load_pretrained(tmp_path / "out")
  assert config == CONFIG and tokenizer.eos_id == load_tokenizer("byte").eos_id
  assert all(map(np.array_equal, jax.tree.leaves(read), jax.tree.leaves(weights)))
  halved = (tmp_path / "out" / "model.safetensors").stat().st_size
  assert halved < 0.6 * (tmp_path / "in" / "model.safetensors").stat().st_size


def test_fp8_from_bfloat16_and_back(tmp_path):
  """As DeepSeek publishes V3; a directory that nothing vouches for is said to be such."""
  save_pretrained(tmp_path / "in", CONFIG, random_weights(), dtype="bfloat16")
  (tmp_path / "in" / "SHA256SUMS").unlink()
  done = export(f"--model={tmp_path}/in", f"--out={tmp_path}/fp8", "--dtype=fp8")
  assert done.returncode == 0, done.stderr
  assert done.stderr == f"{tmp_path}/in has no SHA256SUMS; its data was not verified.\n"
  fields = json.loads((tmp_path / "fp8" / "config.json").read_text())
  assert fields["quantization_config"]["quant_method"] == "fp8"
  model = api.load(tmp_path / "fp8")
  assert isinstance(model.params["moe"]["ffn"]["gate_EDF"], FP8Blocks)
  model.save(tmp_path / "again", "fp8")
  again, first = (tmp_path / name / "model.safetensors" for name in ("again", "fp8"))
  assert again.read_bytes() == first.read_bytes()


def test_bad_input_ends_in_one_sentence(tmp_path):
  done = export(f"--model={tmp_path}/absent", f"--out={tmp_path}/out")
  assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
  assert "absent does not exist" in done.stderr and not (tmp_path / "out").exists()
