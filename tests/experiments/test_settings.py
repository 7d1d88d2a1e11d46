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


def test_programs_run_in_the_main_thread():
  where = """
import threading
import jax, numpy as np
from experiments import program

def seen():
  @jax.jit
  def step(x):
    show = lambda x: np.int32(threading.current_thread() is threading.main_thread())
    return jax.pure_callback(show, jax.ShapeDtypeStruct((), np.int32), x @ x)
  # what is small runs there in any case
  print(int(step(np.ones((512, 512), np.float32))))

{started}
"""
  plain = {"PATH": "", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  for started, main in (("program.run(seen)", "1"), ("seen()", "0")):
    command = [sys.executable, "-c", where.format(started=started)]
    assert _output(command, plain | {"JAX_ENABLE_COMPILATION_CACHE": "0"}).strip() == main


def _output(command, environment):
  done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout
