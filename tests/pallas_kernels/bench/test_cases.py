"""Every case of every family hangs together, at all shapes, without being computed."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import compat, configs
from pallas_kernels.bench import tune
from pallas_kernels.bench.families import FAMILIES
from pallas_kernels.testing import aot

needs_mgpu = pytest.mark.skipif(
  not compat.HAS_MGPU, reason="Hopper kernels need jax 0.11.2 or newer"
)


def _shapes(case, form):
  operands = jax.eval_shape(case.make, jax.random.key(0))[form.group]
  result = jax.eval_shape(form.run, *operands)
  viewed = jax.eval_shape(form.view, result, *operands)
  return jax.tree.map(lambda x: (x.shape, x.dtype), viewed)


def _bytes(arrays):
  return sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(arrays))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_forms_of_xla_have_results_alike(family):
  for case in FAMILIES[family](False):
    own, *others = case.xla()
    for form in others:
      assert _shapes(case, form) == _shapes(case, own), (case.operation, case.shape, form.name)


@pytest.mark.parametrize("chip", ("v5e", pytest.param("h100", marks=needs_mgpu)))
def test_kernels_trace_and_ask_for_tiles(chip):
  kind = "mgpu" if chip == "h100" else "tpu"
  questions = set()
  with aot.pretended(chip):
    for family in ("gemm", "grouped", "mla"):
      for case in FAMILIES[family](True):
        assert _shapes(case, case.kernel(kind)) == _shapes(case, case.xla()[0])
        questions.add(tune._question(case, kind))
  assert {question.operation for question in questions} == set(configs.OPERATIONS)
  for question in questions:
    assert len(tune.candidates(question.default)) > 3


@pytest.mark.parametrize("family", ("fp8", "gemm", "grouped", "routing", "mla"))
def test_bytes_are_those_of_operands_and_results(family):
  """But for what fills shapes up to multiples of 128 and says where rows stand."""
  for case in FAMILIES[family](False):
    operands = jax.eval_shape(case.make, jax.random.key(0))["own"]
    moved = _bytes((operands, jax.eval_shape(case.xla()[0].run, *operands)))
    assert 0.5 * moved <= case.work.bytes <= moved, (case.operation, case.shape)
