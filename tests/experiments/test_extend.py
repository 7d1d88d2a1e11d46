"""The context extension: V3's two phases as published, and the mini's three, one from another."""

import dataclasses
import importlib
import pathlib
import subprocess
import sys

import pytest

from configs import extend_mini
from deepseek_jax.presets import preset
from deepseek_jax.train.metrics import read_metrics
from deepseek_jax.train.pretrain_job import pretrain_job, run_pretrain

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  ("name", "length", "sequences"), [("extend_32k", 32_768, 1920), ("extend_128k", 131_072, 480)]
)
def test_the_published_phases(name, length, sequences):
  config = importlib.import_module(f"configs.{name}").get_config()
  config.update(data={"path": "text", "tokenizer": "dir"})
  job = pretrain_job(config.to_dict())
  assert (job.data.length, job.data.batch * job.micro_batches) == (length, sequences)
  assert job.train.steps == 1000 and job.mesh.devices == 2048
  assert {job.schedule.at(step, 0, 1000).learning_rate for step in range(1000)} == {7.3e-6}
  assert job.schedule.at(0, 0, 1000).bias_speed == 0
  assert job.model == preset("v3_671b")  # whose rotation is that of the extended model


def small(phase, **changes):
  """A phase of the mini with a smaller model and batch, for two steps."""
  config = extend_mini.get_config(phase)
  attention = {"q_latent": 8, "kv_latent": 8, "nope_dim": 4, "v_dim": 8}
  config.update(
    model={
      "d_model": 16,
      "layers": 1,
      "mtp_depth": 0,
      "heads": 1,
      "attention": attention,
    },
    train={"steps": 2, "checkpoint_every": 2},
    data={"batch": 1},
    **changes,
  )
  config.model.moe.update(expert_ff=8, dense_layers=0)
  return pretrain_job(config.to_dict())


def test_the_mini_goes_from_256_positions_to_8192(tmp_path):
  init, shapes = "", []
  for phase, length in (("256", 256), ("2k", 2048), ("8k", 8192)):
    job, workdir = small(phase, init=init), tmp_path / phase
    run_pretrain(job, workdir)
    records = read_metrics(workdir / "metrics.jsonl")
    assert [r["step"] for r in records] == [1, 2]
    assert records[-1]["tokens_seen"] == 2 * length
    assert all(0 < r["ce"] < 20 for r in records)
    init = str(workdir)
    shapes.append(dataclasses.replace(job.model, rope=preset("v3_mini").rope))
  assert shapes[0] == shapes[1] == shapes[2]
  assert job.model.rope.scaling == "yarn" and job.model.max_context >= 8192


def test_an_unknown_phase_is_named():
  flags = ["--config=configs/extend_mini.py:4k", "--workdir=nowhere"]
  command = [sys.executable, "-m", "experiments.pretrain", *flags]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  told = "--config cannot be read: there is no phase '4k'; the phases are 256, 2k, 8k."
  assert (done.returncode, done.stderr.strip()) == (2, told)
