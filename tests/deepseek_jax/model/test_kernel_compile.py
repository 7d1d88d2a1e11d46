"""A whole model's FP8 gradient and decoding step compile to kernels, down to machine code."""

from pathlib import Path

import pytest

from pallas_kernels.testing import aot

PROGRAMS = Path(__file__).with_name("kernel_programs.py")


def compiled(chip):
  if reason := aot.missing(chip):
    pytest.skip(reason)
  return aot.compile_file(PROGRAMS, [chip], "programs")[chip]


@pytest.mark.slow  # ten minutes
def test_on_hopper():
  reports = compiled("h100")
  assert len(reports["gradient"].kernels) > 100 and len(reports["decode"].kernels) > 30
  assert "e4m3.e4m3" in reports["gradient"].ptx
  for report in reports.values():
    assert report.spilled_bytes == 0


@pytest.mark.slow  # two minutes
def test_on_a_tpu():
  reports = compiled("v5e")
  calls = {name: report.hlo.count("tpu_custom_call") for name, report in reports.items()}
  assert calls["gradient"] > 100 and calls["decode"] > 30, calls
