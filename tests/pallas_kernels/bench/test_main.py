"""The command, on the machine that runs the tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def _run(*flags):
  return subprocess.run(
    [sys.executable, "-m", "pallas_kernels.bench", *flags],
    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_on_a_cpu_it_times_xla_and_says_that_no_kernel_was_timed(tmp_path):
  out = tmp_path / "table.md"
  done = _run("--families=routing,mla", "--shapes=small", "--repeats=1", f"--out={out}")
  assert done.returncode == 0, done.stderr
  assert out.read_text() == done.stdout
  heading, _, *lines, _, sentence = done.stdout.rstrip("\n").split("\n")
  assert heading.startswith("cpu, jax ") and "commit" in heading
  assert sentence == "No kernel was timed: this package has none for this device."
  rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
  assert [row[0] for row in rows] == ["routing", "MLA decode"]
  for row in rows:
    assert row[2] == "XLA" and float(row[3].replace(",", "")) > 0
    assert row[5] == row[7] == row[9] == ""  # no peak of a CPU is known, and no kernel compared


def test_a_family_that_is_not_there_is_refused_with_those_that_are():
  done = _run("--families=gem")
  assert done.returncode != 0 and "there are fp8, gemm, grouped" in done.stdout + done.stderr


def test_without_kernels_there_is_nothing_to_tune():
  done = _run("--tune")
  assert done.returncode != 0
  assert "--tune needs a device that this package has kernels for" in done.stdout + done.stderr
