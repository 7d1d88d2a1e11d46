"""Training in FP8: losses fall, what is kept keeps its dtype, and a run goes on bit for bit."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import fp8_mini, pretrain_tiny
from deepseek_jax.config import ConfigError
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.pretrain_job import pretrain_job, run_pretrain

STEPS = 12


@pytest.fixture(scope="module")
def job():
  """The tiny pre-training of a model of two layers, in FP8 with bfloat16 moments."""
  config = pretrain_tiny.get_config()
  config.update(
    {
      "optimizer": {"moment_dtype": "bfloat16"},
      "compute": {"precision": "fp8"},
      "train": {"steps": STEPS, "checkpoint_every": STEPS // 2, "progress_seconds": 1e9},
    }
  )
  return pretrain_job(config.to_dict())


@pytest.fixture(scope="module")
def trained(job, tmp_path_factory):
  directory = tmp_path_factory.mktemp("fp8")
  return directory, run_pretrain(job, directory)[0]


def test_losses_fall(trained):
  losses = [record["ce"] for record in read_metrics(trained[0] / "metrics.jsonl")]
  assert len(losses) == STEPS
  assert losses[-1] < losses[0] - 0.5


def test_master_weights_are_float32_and_moments_bfloat16(trained):
  state = trained[1]
  assert {x.dtype for x in jax.tree.leaves(state.weights)} == {jnp.dtype("float32")}
  adam = state.opt_state[1]
  moments = [x.dtype for x in jax.tree.leaves((adam.mu, adam.nu))]
  assert set(moments) == {jnp.dtype("bfloat16")}


def test_a_run_goes_on_bit_for_bit(job, trained, tmp_path):
  directory, whole = trained
  shutil.copytree(directory, tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
  resumed, position = run_pretrain(job, tmp_path / "run")
  assert position.step == STEPS
  for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_another_precision_is_another_run(job, trained):
  compute = dataclasses.replace(job.compute, precision="plain")
  with pytest.raises(ConfigError, match="compute.precision was 'fp8' and is 'plain'"):
    run_pretrain(dataclasses.replace(job, compute=compute), trained[0])


def test_an_unknown_precision_is_one_sentence():
  config = fp8_mini.get_config()
  config.compute.precision = "fp4"
  with pytest.raises(ConfigError) as error:
    pretrain_job(config.to_dict())
  assert str(error.value) == (
    "compute.precision is 'fp4'; use plain, bfloat16, fp8 or fp8_gradient_blocks."
  )


def test_the_mini_is_v3s_recipe_on_whole_tiles():
  job = pretrain_job(fp8_mini.get_config().to_dict())
  c = job.model
  widths = (c.d_model, c.dense_ff, c.moe.expert_ff, c.attention.q_latent, c.attention.kv_latent)
  assert not any(width % 128 for width in widths)
  assert job.compute.precision == "fp8" and job.compute.dtype == "float32"
  assert job.optimizer.moment_dtype == "bfloat16"
  assert job.train.steps * job.data.batch * job.data.length >= 4_000_000
