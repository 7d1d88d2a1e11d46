"""The decoding kernels compile at the models' shapes: for TPUs, and for Hopper without spills."""

import importlib.util
from pathlib import Path

import pytest

from pallas_kernels.mla.shapes import SHAPES
from pallas_kernels.testing import aot, ptx

PROGRAMS = Path(__file__).with_name("programs.py")


def _programs(chip):
  spec = importlib.util.spec_from_file_location("mla_programs", PROGRAMS)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.programs(chip)


@pytest.mark.parametrize("name", [name for name, *_ in SHAPES])
def test_it_lowers_to_a_tpu_kernel(name):
  assert aot.lower(*_programs("v5e")[name], "v5e").count("tpu_custom_call") == 1


def test_it_compiles_for_every_tpu_without_copying_the_cache():
  if reason := aot.missing("v5e"):
    pytest.skip(reason)
  reports = aot.compile_file(PROGRAMS, aot.TPUS)
  for chip in aot.TPUS:
    for name, B, H, S in SHAPES:
      report = reports[chip][name]
      assert "tpu_custom_call" in report.hlo
      budget = 2 * B * H * 640 + 4 * 8 * B * S + 2**19  # the queries turned, and the slots' mask
      assert report.temp_bytes <= budget < 2 * B * S * 576, (chip, name, report.temp_bytes)


def test_the_hopper_kernel_fits_registers_and_shared_memory():
  if reason := aot.missing("h100"):
    pytest.skip(reason)
  for name, report in aot.compile_file(PROGRAMS, ("h100",))["h100"].items():
    assert len(report.kernels) == 1 and "mosaic_gpu" in report.hlo
    assert report.spilled_bytes == 0, name
    assert report.shared_bytes <= aot.H100_SHARED_BYTES, name
    kinds = {"m64n64k16.f32.bf16.bf16", "m64n128k16.f32.bf16.bf16"}  # scores; latents by weights
    assert ptx.wgmma_kinds(report.ptx) == kinds
    for registers in (120, 176, 40):
      assert f"setmaxnreg.{'inc' if registers == 176 else 'dec'}.sync.aligned.u32 {registers}" in (
        report.ptx
      )
