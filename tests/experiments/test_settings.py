"""What a program's process is given before it begins, and what it is not."""

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_programs_run_in_the_thread_that_calls_them():
  """A step that takes a second is done when the call returns."""
  step = """
import jax, jax.numpy as jnp
from experiments import program

def seen():
  turn = lambda i, x: jnp.cos(x @ x)
  done = jax.jit(lambda x: jax.lax.fori_loop(0, 100, turn, x))(jnp.ones((1000, 1000)))
  print(int(done.is_ready()))

program.run(seen)
"""
  plain = {"PATH": "", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-c", step]
  assert _output(command, plain | {"JAX_ENABLE_COMPILATION_CACHE": "0"}).strip() == "1"


def _output(command, environment):
  done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout
