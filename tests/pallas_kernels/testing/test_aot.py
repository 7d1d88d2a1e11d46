"""Compilation without a device, and what is read from it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.testing import aot

PROGRAMS = Path(__file__).with_name("programs.py")


def _compile(chip):
  if reason := aot.missing(chip):
    pytest.skip(reason)
  return aot.compile_file(PROGRAMS, (chip,))[chip]["add"]


def test_a_tpu_kernel_compiles_to_a_custom_call():
  report = _compile("v5e")
  assert "tpu_custom_call" in report.hlo and report.kernels == () and report.temp_bytes == 0


def test_a_hopper_kernel_compiles_to_ptx_with_its_spills_and_shared_memory():
  report = _compile("h100")
  assert len(report.kernels) == 1 and ".target sm_90a" in report.ptx
  assert report.spilled_bytes == 0 and "mosaic_gpu" in report.hlo
  assert 128 * 128 * 4 < report.shared_bytes < 128 * 128 * 4 + 4096


def test_what_does_not_compile_is_said_with_its_name():
  if aot.missing("v5e"):
    pytest.skip(aot.missing("v5e"))
  with pytest.raises(RuntimeError, match="refused for v5e[^$]*no such thing"):
    aot.compile_file(PROGRAMS.with_name("broken_programs.py"), ("v5e",))


@pytest.mark.parametrize("chip", aot.TPUS)
def test_lowering_needs_no_compiler(chip):
  argument = jax.ShapeDtypeStruct((8, 128), jnp.float32)
  text = aot.lower(lambda x: x + 1, (argument,), chip)
  assert "stablehlo.add" in text


def test_the_pretended_chip_is_seen_only_within():
  with aot.pretended("h100", cores=3):
    assert jax.sharding.get_abstract_mesh().abstract_device.num_cores == 3
  assert jax.sharding.get_abstract_mesh().abstract_device is None
