"""The products compiled to machine code for TPUs and an H100 that are not there."""

from pathlib import Path

import pytest

from pallas_kernels.gemm import shapes
from pallas_kernels.testing import aot, ptx

PROGRAMS = Path(__file__).with_name("programs.py")
NAMES = {"forward", "weight gradient", "layer"}
ALLOCATED = 8192  # bytes that v5p, of two cores, gives out at a time: 56 rows of 512 bytes take 64


@pytest.mark.parametrize("chip", aot.TPUS)
def test_they_compile_for_a_tpu(chip):
  if reason := aot.missing(chip):
    pytest.skip(reason)
  reports = aot.compile_file(PROGRAMS, (chip,))[chip]
  assert set(reports) == NAMES
  for name, report in reports.items():
    assert report.hlo.count("tpu_custom_call") >= (8 if name == "layer" else 1), name
    if name != "layer":
      assert report.temp_bytes <= 1 << 16, name  # block scales, laid out for scalar memory


def test_they_compile_for_an_h100_with_promotion_and_without_spills():
  if reason := aot.missing("h100"):
    pytest.skip(reason)
  reports = aot.compile_file(PROGRAMS, ("h100",))["h100"]
  assert set(reports) == NAMES
  for name, report in reports.items():
    assert report.spilled_bytes == 0, name
    assert 0 < report.shared_bytes <= aot.H100_SHARED_BYTES, name
    products = [k.ptx for k in report.kernels if "wgmma" in k.ptx]
    assert len(products) == (3 if name == "layer" else 1), name
    for text in products:
      assert ptx.wgmma_kinds(text) == {"m64n128k32.f32.e4m3.e4m3"}
      assert ptx.longest_accumulation(text) == 128 and ptx.promoted(text) == 64
    if name != "layer":
      assert report.temp_bytes == 0, name


@pytest.mark.slow
@pytest.mark.parametrize("chip", aot.CHIPS)
def test_every_weight_of_v3_compiles(chip):
  if reason := aot.missing(chip):
    pytest.skip(reason)
  reports = aot.compile_file(PROGRAMS, (chip,), programs="all_weights", timeout=1800)[chip]
  assert len(reports) == len(shapes.WEIGHTS) * len(shapes.TOKENS)
  for name, report in reports.items():
    N, K = (-(-size // 128) for size in shapes.WEIGHTS[name.partition(",")[0]])
    scales = 4 * (-(-N // 8) * 8) * (-(-K // 128) * 128)  # laid out for a TPU's scalar memory
    scales = -(-scales // ALLOCATED) * ALLOCATED
    assert report.spilled_bytes == 0 and report.temp_bytes <= scales, name
