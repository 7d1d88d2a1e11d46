"""The quantisations compiled to machine code for TPUs and an H100 that are not there."""

from pathlib import Path

import pytest

from pallas_kernels.testing import aot

PROGRAMS = Path(__file__).with_name("programs.py")


@pytest.mark.parametrize("chip", aot.CHIPS)
def test_they_compile(chip):
  if reason := aot.missing(chip):
    pytest.skip(reason)
  reports = aot.compile_file(PROGRAMS, (chip,))[chip]
  assert len(reports) == 10
  for name, report in reports.items():
    assert report.temp_bytes == 0, name
    if chip == "h100":
      assert len(report.kernels) == 1 and report.spilled_bytes == 0, name
      assert 0 < 2 * report.shared_bytes <= aot.H100_SHARED_BYTES, name  # two blocks at least
      assert "cvt.rn.satfinite.e4m3x2.f32" in report.ptx, name
    else:
      assert report.hlo.count("tpu_custom_call") >= 1, name
