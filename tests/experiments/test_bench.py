"""The benchmark's own arithmetic and manners; its figures need a quiet machine and no test."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from deepseek_jax.config import ConfigError, GQAConfig
from deepseek_jax.hub.safetensors import save_pretrained
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.presets import preset
from deepseek_jax.recipe.ledger import Entry
from deepseek_jax.tasks.code.sandbox import sandbox
from experiments.benchmarks import confinement
from experiments.benchmarks.first_run import COLUMNS, account, table
from experiments.benchmarks.reinforcers import Lesson, reward
from experiments.benchmarks.timing import pair_ratio, take_turns
from experiments.benchmarks.trainers import Shape, tokens_BT


def test_turns_alternate():
  order = []

  def turn(name):
    return lambda: order.append(name) or float(len(order))

  seconds = take_turns({"a": turn("a"), "b": turn("b")}, 3)
  assert order == ["a", "b"] * 3
  assert seconds == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_a_slow_moment_that_hits_a_pair_does_not_move_the_ratio():
  assert pair_ratio([1, 1, 10, 1, 1], [2, 2, 20, 2, 2]) == 2
  assert pair_ratio([1, 1, 1], [2, 2, 90]) == 2


def test_tokens_are_the_same_for_all_contenders_and_lie_in_the_vocabulary():
  shape = Shape(preset("v3_mini"), 3, 50)
  tokens = tokens_BT(shape)
  assert np.array_equal(tokens, tokens_BT(shape))
  assert tokens.shape == (3, 50) and tokens.min() >= 0 and tokens.max() < shape.model.vocab
  assert shape.tokens == 150


def test_a_lesson_is_the_same_for_all_contenders():
  lesson = Lesson("", vocab=50, prompts=(2, 5))
  assert lesson.texts() == lesson.texts()
  ids = [[int(word[1:]) for word in text.split()] for text in lesson.texts()]
  assert [len(i) for i in ids] == [2, 5] and max(map(max, ids)) < 50
  assert reward("w1 w2 w4 w5") == 0.5


def test_a_first_run_s_parts_add_up_to_its_wall_clock():
  entry = Entry("base", "teacher", None, None, seconds=40.0, compile_seconds=9.0, programs=3)
  entry.training_seconds, entry.drawing_seconds, entry.cached = 20.0, 1.0, 2
  found = account([entry.as_dict()] * 2, loading=4.0, wall=90.0)
  assert found["total"] == 90 and (found["programs"], found["cached"]) == (6, 4)
  assert found["rest"] == 90 - 4 - 2 * (9 + 20 + 1)
  assert sum(found[column] for column in COLUMNS if column != "total") == found["total"]
  lines = table({"empty cache, seed 0": found}).splitlines()
  assert lines[0].split() == ["seconds", *COLUMNS, "programs", "cached"]
  assert lines[1].split()[-3:] == ["90.0", "6", "4"] and lines[2].split()[-1] == "100.0%"


@pytest.mark.parametrize(
  ("flags", "named"),
  [
    (["--pairs=0"], "--pairs"),
    (["--preset=v3_999b"], "v3_999b"),
    (["--suite=nothing"], "suite"),
    (["--suite=experts", "--preset=smollm2_135m"], "smollm2_135m"),
    (["--suite=decode", "--against=trl"], "--against=trl"),
    (["--suite=grpo", "--against=transformers"], "--against=transformers"),
    (["--suite=first_run", "--config=configs/none.py"], "configs/none.py"),
  ],
)
def test_bad_flags_end_with_a_sentence(flags, named):
  command = [sys.executable, "-m", "experiments.bench", *flags]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2
  assert named in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_one_pair_of_a_mini_is_measured(tmp_path):
  """The whole way, both processes and the parts, in figures that mean nothing."""
  pytest.importorskip("transformers")
  out = tmp_path / "bench.json"
  command = [sys.executable, "-m", "experiments.bench", "--against=transformers"]
  command += ["--preset=v3_mini", "--batch=1", "--length=8", "--pairs=1", "--steps=1"]
  done = subprocess.run([*command, f"--out={out}"], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  result = json.loads(out.read_text())
  assert set(result["parts"]) == {"attention", "experts", "head", "optimizer", "rest", "step"}
  assert set(result["tokens_per_second"]) == {"deepseek_jax", "transformers"}
  assert result["ratio"] > 0


def test_what_a_confined_program_costs_is_measured(monkeypatch):
  try:
    sandbox()
  except ConfigError as error:
    pytest.skip(str(error))
  monkeypatch.setattr(confinement, "_RUNS", 3)
  found = confinement.measure(2)
  alone, empty, tests = (figure["median"] for figure in found.values())
  assert 0 < alone < tests and empty > 0, "which starts an interpreter twice, and two sandboxes"
  assert all(figure["tenth"] <= figure["median"] for figure in found.values())


@pytest.mark.slow
def test_grpo_of_a_mini_is_measured(tmp_path):
  """Sampling and updating of a dense model, one pair without a rival."""
  small = dataclasses.replace(
    preset("smollm2_135m"), layers=1, d_model=16, heads=1, dense_ff=16, vocab=64,
    attention=GQAConfig(kv_heads=1, head_dim=8),
  )  # fmt: skip
  model = Transformer(small)
  weights = jax.jit(lambda key: init_weights(model, key))(jax.random.key(0))
  save_pretrained(tmp_path / "model", small, weights)
  command = [sys.executable, "-m", "experiments.bench", "--suite=grpo", "--pairs=1"]
  command += [f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'bench.json'}"]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / "bench.json").read_text())["seconds"]["deepseek_jax"]
  assert found["first"] > found["step"] > found["sampling"] > 0 and found["updating"] > 0
