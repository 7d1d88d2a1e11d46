"""The kernels are what runs, and they compile for an H100 and every TPU at the models' shapes."""

import functools
import importlib.util
from pathlib import Path

import pytest

from pallas_kernels import compat, dispatch
from pallas_kernels.grouped.layout import padded_rows
from pallas_kernels.grouped.shapes import SHAPES
from pallas_kernels.testing import aot, ptx

PROGRAMS = Path(__file__).with_name("programs.py")
_spec = importlib.util.spec_from_file_location("grouped_programs", PROGRAMS)
programs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(programs)


def _lowered(chip, implementation):
  training = functools.partial(programs.training, implementation=implementation)
  return aot.lower(training, programs.training_arguments(), chip)


@pytest.mark.parametrize("implementation", ["tpu", None])
def test_all_products_are_kernels_on_a_tpu(implementation, monkeypatch):
  monkeypatch.setattr(dispatch, "device_kernel", lambda: "tpu")
  text = _lowered("v5e", implementation)
  assert text.count('kernel_name = "m_grouped_fp8"') == 2
  assert text.count('kernel_name = "k_grouped_fp8"') == 1
  assert "stablehlo.dot" not in text


@pytest.mark.skipif(not compat.HAS_MGPU, reason="Hopper kernels want jax 0.11.2")
@pytest.mark.parametrize("implementation", ["mgpu", None])
def test_all_products_are_kernels_on_hopper(implementation, monkeypatch):
  monkeypatch.setattr(dispatch, "device_kernel", lambda: "mgpu")
  text = _lowered("h100", implementation)
  assert text.count("@mosaic_gpu") >= 3 and "stablehlo.dot" not in text


def test_for_another_device_they_are_not():
  text = _lowered("v5e", None)
  assert "tpu_custom_call" not in text and "stablehlo.dot" in text


def _compiled(chips, which):
  if reason := aot.missing(chips[0]):
    pytest.skip(reason)
  return aot.compile_file(PROGRAMS, chips, which)


def _check_tpu(reports, chip, shapes):
  for name, G, R, N, K in shapes:
    M = padded_rows(R, G)
    m_report, k_report = (reports[f"{op} {name}"] for op in "mk")
    assert "m_grouped_fp8" in m_report.hlo and "k_grouped_fp8" in k_report.hlo
    # Scales may be laid out anew, in registers of 8 rows; nothing as large as an operand is.
    scales = 4 * (M * -(-K // 1024) * 8 + G * N * K // 128**2 * 16)
    assert m_report.temp_bytes <= scales + 128 * 1024, (chip, name, m_report.temp_bytes)
    scales = 4 * M // 128 * (N + K)
    assert k_report.temp_bytes <= scales + 256 * 1024, (chip, name, k_report.temp_bytes)


def _check_hopper(reports, at_least):
  """Of the kernels that multiply; others quantise."""
  kernels = [kernel for report in reports.values() for kernel in report.kernels]
  kernels = [kernel for kernel in kernels if ptx.wgmma_kinds(kernel.ptx)]
  assert len(kernels) >= at_least
  for kernel in kernels:
    assert ".target sm_90a" in kernel.ptx
    assert ptx.wgmma_kinds(kernel.ptx) == {"m64n128k32.f32.e4m3.e4m3"}
    assert ptx.longest_accumulation(kernel.ptx) == 128  # elements of the contraction
    assert ptx.promoted(kernel.ptx) == 64  # all sums of a thread
    assert kernel.spilled_bytes == 0 and kernel.shared_bytes <= aot.H100_SHARED_BYTES
  assert all(report.temp_bytes == 0 for name, report in reports.items() if name != "layer")


def test_they_compile_for_every_tpu():
  reports = _compiled(aot.TPUS, "programs")
  for chip in aot.TPUS:
    assert reports[chip]["layer"].hlo.count('custom_call_target="tpu_custom_call"') >= 3
    _check_tpu(reports[chip], chip, programs.EVERY_DAY)


def test_they_compile_for_an_h100_without_spills_and_promote():
  reports = _compiled(("h100",), "programs")["h100"]
  _check_hopper(reports, at_least=2 * len(programs.EVERY_DAY) + 4)


@pytest.mark.slow
@pytest.mark.parametrize("chip", aot.CHIPS)
def test_all_shapes_compile(chip):
  reports = _compiled((chip,), "all_shapes")[chip]
  if chip == "h100":
    _check_hopper(reports, at_least=2 * len(SHAPES))
  else:
    _check_tpu(reports, chip, SHAPES)
