"""The dispatch plan is the stable sort of the choices by expert, also in aligned rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.grouped.layout import padded_rows
from pallas_kernels.routing import ref, xla
from pallas_kernels.routing.plan import ALIGNMENT, plan
from pallas_kernels.routing.shapes import V3


def _routing(experts_NA, experts):
  """As a router would give it, for these choices."""
  experts_NA = jnp.asarray(experts_NA, jnp.int32)
  return ref.Routing(experts_NA, jnp.ones(experts_NA.shape), *xla.ranks(experts_NA, experts))


def _choices(seed, tokens, top_k, experts, used):
  """Choices, ascending, among `used` of the experts: the others stay empty."""
  rng = np.random.default_rng(seed)
  open_E = np.sort(rng.choice(experts, used, replace=False))
  rows = [np.sort(rng.choice(open_E, top_k, replace=False)) for _ in range(tokens)]
  return np.array(rows, np.int32).reshape(tokens, top_k)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), used=st.integers(2, 8), tokens=st.sampled_from([1, 70, 300]))
def test_it_is_the_stable_sort_and_its_inverse(seed, used, tokens):
  experts_NA = _choices(seed, tokens, 2, 8, used)
  p = jax.tree.map(np.asarray, plan(_routing(experts_NA, 8)))
  flat_M = experts_NA.reshape(-1)
  np.testing.assert_array_equal(p.order_M, np.argsort(flat_M, kind="stable"))
  np.testing.assert_array_equal(p.order_M[p.place_M], np.arange(flat_M.size))
  np.testing.assert_array_equal(flat_M[p.order_M], np.repeat(np.arange(8), p.counts_E))
  np.testing.assert_array_equal(np.diff(p.offsets_E), p.counts_E)
  assert p.offsets_E[0] == 0 and p.offsets_E[-1] == flat_M.size


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), used=st.integers(2, 8), tokens=st.sampled_from([1, 70, 300]))
def test_aligned_rows_hold_one_expert_per_tile(seed, used, tokens):
  experts_NA = _choices(seed, tokens, 2, 8, used)
  p = jax.tree.map(np.asarray, plan(_routing(experts_NA, 8)))
  assert (p.aligned_E % ALIGNMENT == 0).all() and len(set(p.row_M)) == experts_NA.size
  assert p.aligned_E[-1] <= padded_rows(experts_NA.size, 8)
  flat_M = experts_NA.reshape(-1)
  assert (p.row_M >= p.aligned_E[flat_M]).all()
  assert (p.row_M < p.aligned_E[flat_M] + p.counts_E[flat_M]).all()
  np.testing.assert_array_equal(np.argsort(p.row_M), p.order_M)
  assert ((np.diff(p.aligned_E) == 0) == (p.counts_E == 0)).all()  # an empty expert has no tile


@pytest.mark.parametrize("route", [ref.route, xla.route])
def test_results_come_back_in_order(route):
  logits_NE = jax.random.normal(jax.random.key(0), (40, 256))
  x_ND = np.asarray(jax.random.normal(jax.random.key(1), (40, 3)))
  p = plan(route(logits_NE, jnp.zeros(256), V3))
  sorted_MD = x_ND[np.asarray(p.order_M) // V3.top_k]
  back_NAD = sorted_MD[np.asarray(p.place_M)].reshape(40, V3.top_k, 3)
  np.testing.assert_array_equal(back_NAD, np.broadcast_to(x_ND[:, None], back_NAD.shape))
