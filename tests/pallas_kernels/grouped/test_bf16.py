"""The grouped matmul in bfloat16, by XLA and by tokamax."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import dispatch
from pallas_kernels.grouped.api import grouped_matmul_bf16
from pallas_kernels.testing.oracles import max_relative

COUNTS = (130, 0, 60, 128)


@pytest.fixture
def case(make_case):
  return make_case(COUNTS, 256, 384)


def _run(implementation, case, x_MK=None, dy_MN=None):
  x_MK = case.x_MK if x_MK is None else x_MK
  dy_MN = case.dy_MN if dy_MN is None else dy_MN

  def multiply(x_MK, w_GNK, layout):
    return grouped_matmul_bf16(x_MK, w_GNK, layout, implementation=implementation)

  @jax.jit
  def both(x_MK, w_GNK, dy_MN, layout):
    y_MN, backward = jax.vjp(lambda x, w: multiply(x, w, layout), x_MK, w_GNK)
    return y_MN, *backward(dy_MN)

  return [np.asarray(result) for result in both(x_MK, case.w_GNK, dy_MN, case.layout)]


def _check(case, results, bound):
  rounded = [
    x.astype(jnp.bfloat16).astype(jnp.float32) for x in (case.x_MK, case.w_GNK, case.dy_MN)
  ]
  x_MK, w_GNK, dy_MN = rounded
  y_MN, dx_MK, dw_GNK = results
  assert max_relative(y_MN, case.products(x_MK, w_GNK)) <= bound
  assert max_relative(dx_MK, case.products(dy_MN, w_GNK.swapaxes(1, 2))) <= bound
  assert max_relative(dw_GNK, case.matrices(dy_MN, x_MK)) <= bound
  held_M = np.asarray(case.layout.held_M)
  assert not y_MN[~held_M].any() and not dx_MK[~held_M].any()


def _with_nan(case):
  held_M1 = case.layout.held_M[:, None]
  return jnp.where(held_M1, case.x_MK, jnp.nan), jnp.where(held_M1, case.dy_MN, jnp.nan)


def test_xla_has_the_products_and_gradients_of_rounded_operands(case):
  _check(case, _run("xla", case), 2e-6)
  _check(case, _run("xla", case, *_with_nan(case)), 2e-6)


def test_the_reference_too_but_for_gradients_that_it_rounds(case):
  _check(case, _run("ref", case), 4e-3)


def test_a_result_has_the_dtype_of_the_rows(case):
  y_MN = grouped_matmul_bf16(
    case.x_MK.astype(jnp.bfloat16), case.w_GNK, case.layout, implementation="xla"
  )
  assert y_MN.dtype == jnp.bfloat16


def test_tokamax_itself(case):
  pytest.importorskip("tokamax", reason="tokamax is not installed")
  _check(case, _run("mgpu", case, *_with_nan(case)), 4e-3)


def _ragged_dot(lhs, rhs, group_sizes, preferred_element_type):
  """Of tokamax's signature; leaves NaN in rows of no group, as it may."""
  assert lhs.dtype == rhs.dtype == jnp.bfloat16
  y = jax.lax.ragged_dot(
    lhs.astype(jnp.float32), rhs.astype(jnp.float32), group_sizes, precision="highest"
  )
  used = jnp.arange(len(lhs))[:, None] < group_sizes.sum()
  return jnp.where(used, y, jnp.nan).astype(preferred_element_type)


@pytest.mark.parametrize("device", ["tpu", "mgpu"])
def test_tokamax_is_what_tpus_and_hoppers_use(device, case, monkeypatch):
  calls = []

  def ragged_dot(*args, **options):
    calls.append(options)
    return _ragged_dot(*args, **options)

  monkeypatch.setattr(dispatch, "device_kernel", lambda: device)
  module = types.ModuleType("tokamax")
  module.ragged_dot = ragged_dot
  module.__spec__ = types.SimpleNamespace(name="tokamax")
  monkeypatch.setitem(sys.modules, "tokamax", module)
  _check(case, _run(None, case, *_with_nan(case)), 4e-3)
  assert calls == [{"preferred_element_type": jnp.float32}]


def test_without_tokamax_none_means_xla_and_a_named_kernel_is_refused(case, monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  monkeypatch.setattr(dispatch, "device_kernel", lambda: "mgpu")
  for ours, xlas in zip(_run(None, case), _run("xla", case)):
    np.testing.assert_array_equal(ours, xlas)
  with pytest.raises(dispatch.Unsupported, match="tokamax is not installed"):
    _run("mgpu", case)
