"""Adapters as a user trains them: killed and restarted, tried first, refused, studied."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from deepseek_jax.train.checkpoint import load_weights
from deepseek_jax.train.metrics import read_metrics
from experiments.program import BAD_INPUT
from tests import killing
from tests.deepseek_jax.train.adapted import MODELS, write_base

ITERATIONS = 6


@pytest.fixture(scope="module")
def cache():
  """The user's cache, for programs that compile quickly rather than well."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    if jax.__version_info__ < (0, 11):  # as in tests/conftest.py
      patch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false", prepend=" ")
    yield None


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  return write_base(tmp_path_factory.mktemp("base"), MODELS["v3"])


def grpo(workdir, base, *more):
  return [
    "--config=configs/grpo_tiny.py",
    f"--workdir={workdir}",
    f"--config.init={base}",
    "--config.task=isolated:tests.positive_task:Positive",
    "--config.rl.reference_every=0",
    "--config.rl.peak=1e-2",
    "--config.lora.rank=4",
    f"--config.train.steps={ITERATIONS}",
    *more,
  ]


@pytest.mark.slow
def test_killed_and_restarted_is_the_run_undisturbed(tmp_path, cache, base):
  undisturbed, workdir = tmp_path / "undisturbed", tmp_path / "killed"
  killing.run("experiments.grpo", grpo(undisturbed, base), cache)
  updated = [r for r in read_metrics(undisturbed / "metrics.jsonl") if r["updates"]]
  assert updated and max(r["mismatch"] for r in updated) < 1e-4
  assert max(r["kl"] for r in updated) > 0
  before = load_weights(base / "checkpoints")
  happened = killing.run_with_kills(
    "experiments.grpo", grpo(workdir, base), workdir, cache, ITERATIONS, 5, 0
  )
  assert happened >= 1
  killing.assert_same_outcome(workdir, undisturbed)
  jax.tree.map(np.testing.assert_array_equal, load_weights(base / "checkpoints"), before)


@pytest.mark.slow
def test_a_preflight_counts_one_copy_of_the_base(tmp_path, base):
  out = tmp_path / "figures.json"
  arguments = grpo(tmp_path / "run", base, "--preflight", f"--preflight_out={out}")
  done = subprocess.run(
    [sys.executable, "-m", "experiments.grpo", *arguments],
    cwd=killing.ROOT, env=killing.program_environment(None), capture_output=True, text=True,
    timeout=900,
  )  # fmt: skip
  assert out.exists(), done.stderr
  found = json.loads(out.read_text())
  memory = next(f["values"] for f in found["findings"] if f["name"] == "memory")
  assert memory["reference"] == 0
  adapters = memory["gradients"]
  assert 0 < adapters < 0.5 * memory["weights"]
  assert abs(memory["moments"] - 2 * adapters) <= 8
  assert abs(memory["saved"] - 3 * adapters) < 0.1 * adapters
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("more", "told"),
  [
    (["--config.lora.rank=5"], "lora.rank is 5, but dense/attention/k_rope_DR is a matrix of"),
    (["--config.lora.targets=q_proj"], "lora.targets has 'q_proj', which is none of"),
    (["--config.rl.reference_every=3"], "rl.reference_every is 3, but the reference of adapters"),
  ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, cache, base, more, told):
  arguments = grpo(tmp_path / "run", base, *more)
  errors = killing.run("experiments.grpo", arguments, cache, status=BAD_INPUT)
  last = errors.strip().splitlines()[-1]
  assert told in last and last.endswith(".")
  assert not (tmp_path / "run").exists()
