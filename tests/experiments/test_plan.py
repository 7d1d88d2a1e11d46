"""The planner, as a user runs it."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(*flags):
  command = [sys.executable, "-m", "experiments.plan", *flags]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_config_on_a_cluster(tmp_path):
  done = run(
    "--config=configs/v3_671b.py",
    "--topology=h800-32",
    "--config.data.batch=64",
    "--config.micro_batches=1",
    "--price=3",
    "--attained=compute=0.5,overlap=1",
    f"--out={tmp_path}",
    "--search",
    "--memory=50000",
  )
  assert done.returncode == 0, done.stderr
  for told in (
    "Parameters 671.026B, active 36.626B",
    "Memory of a device",
    "Received by a device",
    "attained: compute 0.5, memory 0.8, links 0.8, overlap 1",
    "their price at $3",
    "9.211 GB",
    "The quickest of",
  ):
    assert told in done.stdout, told
  assert "<svg" not in done.stdout and (tmp_path / "plan.html").is_file()


def test_reinforcement_by_phase():
  done = run(
    "--config=configs/grpo_mini.py", "--model=v3_mini", "--topology=h100-1", "--sampled=40"
  )
  assert done.returncode == 0, done.stderr
  for phase in ("sampling", "scoring", "updating", "weights to the sampler"):
    assert f"iteration: {phase}" in done.stdout


def test_published_costs():
  done = run("--published")
  assert done.returncode == 0, done.stderr
  for told in ("2,788", "5.576", "147", "294", "545", "0.55", "2.19"):
    assert f"published {told}" in done.stdout, told


@pytest.mark.parametrize(
  ("flags", "told"),
  [
    (["--model=v3_671b"], "--topology is missing; give one like v5p-1024"),
    (
      ["--config=configs/pretrain_mini.py", "--topology=h100-1", "--memory=3"],
      "--memory is the limit of a search; add --search",
    ),
    (
      ["--model=v3_mini", "--topology=h100-1", "--attained=speed=1"],
      "--attained has 'speed=1'; give NAME=SHARE of compute, memory, links, overlap",
    ),
  ],
)
def test_bad_input_ends_with_one_sentence(flags, told):
  done = run(*flags)
  assert done.returncode == 2, done.stdout
  assert told in done.stderr and len(done.stderr.strip().splitlines()) == 1
