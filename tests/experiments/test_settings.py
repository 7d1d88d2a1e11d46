"""What a program's process is given before it begins, and what it is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import process_settings

ROOT = Path(__file__).parents[2]


def test_what_the_user_set_is_left_alone():
  set_by_user = {
    "GLIBC_TUNABLES": "glibc.malloc.check=1",
    "XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT",
  }
  assert process_settings(set_by_user, "0.10.2") == {}


def test_other_flags_of_xla_are_kept():
  added = process_settings({"XLA_FLAGS": "--xla_dump_to=x"}, "0.10.2")
  assert added["XLA_FLAGS"].split()[0] == "--xla_dump_to=x"
  assert len(added["XLA_FLAGS"].split()) == 2


@pytest.mark.parametrize("jaxlib", ["0.9.1", "0.11.0", "0.12.0"])
def test_a_jaxlib_that_may_not_know_the_flag_is_not_given_it(jaxlib):
  assert "XLA_FLAGS" not in process_settings({}, jaxlib)


def test_settings_are_made_once():
  first = process_settings({}, "0.10.2")
  assert first and process_settings(first, "0.10.2") == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
def test_a_program_runs_with_them_and_an_import_without():
  plain = {"PATH": "", "PYTHONPATH": str(ROOT)}
  watch = "import os; os.execve = lambda file, argv, variables: print(variables); "
  imported = _output([sys.executable, "-c", watch + "import experiments"], plain)
  assert imported == ""
  # What `python -m` leaves in argv while it looks for the program.
  started = watch + "import sys; sys.argv = ['-m']; import experiments"
  assert "glibc.malloc.hugetlb=1" in _output([sys.executable, "-c", started], plain)


def _output(command, environment):
  done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout
