"""What a program's process is given before it begins, and what it is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import heaps

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
def test_a_program_runs_with_them_and_an_import_without():
  plain = {"PATH": "", "PYTHONPATH": str(ROOT)}
  watch = "import os; os.execve = lambda file, argv, variables: print(variables); "
  imported = _output([sys.executable, "-c", watch + "import experiments"], plain)
  assert imported == ""
  # What `python -m` leaves in argv while it looks for the program.
  started = watch + "import sys; sys.argv = ['-m']; import experiments"
  assert "glibc.malloc.hugetlb=1" in _output([sys.executable, "-c", started], plain)
  users = {**plain, "GLIBC_TUNABLES": "glibc.malloc.check=1"}
  assert _output([sys.executable, "-c", started], users) == ""


@pytest.mark.parametrize(
  ("program", "named", "one"),
  [
    ("grpo", "--config.init={large}", True),
    ("bench", "{large}/model.gguf", True),
    ("grpo", "--config.init={small}", False),
    ("grpo", "--config.init={large}/nothing", False),
    ("grpo", f"--prompt={'x' * 9000}", False),
    ("chat", "--model={large}", False),
  ],
)
def test_training_a_large_checkpoint_shares_one_heap(program, named, one, tmp_path):
  for name, size in (("large", 2**27), ("small", 2**20)):
    (tmp_path / name).mkdir()
    for file in ("model.safetensors", "model.gguf"):
      with open(tmp_path / name / file, "wb") as sparse:
        sparse.truncate(size)
  named = named.format(large=tmp_path / "large", small=tmp_path / "small")
  settings = heaps(["python", "-m", f"experiments.{program}", named])
  assert ("arena_max=1" in settings) == one
  assert "hugetlb=1" in settings


def _output(command, environment):
  done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout
