"""The routing kernel compiles for every TPU at the models' shapes."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.routing import tpu
from pallas_kernels.routing.shapes import SHAPES
from pallas_kernels.testing import aot

PROGRAMS = Path(__file__).with_name("programs.py")


@pytest.mark.parametrize(("name", "N", "E", "rule"), SHAPES)
def test_it_lowers_to_a_tpu_kernel(name, N, E, rule):
  args = jax.ShapeDtypeStruct((N, E), jnp.float32), jax.ShapeDtypeStruct((E,), jnp.float32)
  text = aot.lower(functools.partial(tpu.route, rule=rule), args, "v5e")
  assert text.count("tpu_custom_call") == 1


def test_it_compiles_for_every_tpu():
  if reason := aot.missing("v5e"):
    pytest.skip(reason)
  reports = aot.compile_file(PROGRAMS, aot.TPUS)
  for chip in aot.TPUS:
    for name, N, E, _ in SHAPES:
      report = reports[chip][name]
      assert "tpu_custom_call" in report.hlo, (chip, name)
      # Logits with tokens along the lanes, results of 8 rows before they are turned, and the two
      # columns of experts, which fill registers of 128 lanes.
      budget = 4 * N * (E + 3 * 8) + 2 * 4 * 128 * E + 64 * 1024
      assert report.temp_bytes <= budget, (chip, name, report.temp_bytes)
