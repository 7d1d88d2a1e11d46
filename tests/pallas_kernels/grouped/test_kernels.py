"""Both kernels in their interpreters, without races, against the reference; and broken ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import compat, dispatch
from pallas_kernels.grouped import mgpu, ref, tpu, xla
from pallas_kernels.testing import aot, races
from pallas_kernels.testing.oracles import calc_diff, max_relative

needs_mgpu = pytest.mark.skipif(not compat.HAS_MGPU, reason="Hopper kernels want jax 0.11.2")
PLATFORMS = ("tpu", pytest.param("mgpu", marks=needs_mgpu))
PROCESSORS = 2
# m_grouped: five tiles of rows and four blocks of K for two stages; a group is empty and a tile is
# not in use. k_grouped: a group of five tiles, one of one, and an empty one.
M_COUNTS, M_SHAPE = (130, 0, 60, 128), (256, 512)
K_COUNTS, K_SHAPE = (520, 0, 60), (128, 256)
WRONG = 1e-4  # a hundred times what is right


def _form(platform, op):
  """The kernel in its interpreter, its blocks so small that all of them are used again."""
  if platform == "tpu":
    interpret = compat.tpu_interpreter(
      detect_races=True, uninitialized_memory="nan", dma_execution_mode="on_wait"
    )
    return functools.partial(getattr(tpu, op), tiles=tpu.Tiles(128, 128), interpret=interpret)
  interpret = compat.gpu_interpreter(detect_races=True, uninitialized_memory="nan")
  tiles = mgpu.Tiles(stages=2, snake=1)
  return functools.partial(getattr(mgpu, op), tiles=tiles, interpret=interpret)


def _run(platform, op, operands, **options):
  if platform == "tpu":
    return races.run(functools.partial(_form(platform, op), **options), *operands)
  with aot.pretended("h100", PROCESSORS):
    return races.run(functools.partial(_form(platform, op), **options), *operands)


@pytest.fixture
def m_case(make_case):
  case = make_case(M_COUNTS, *M_SHAPE)
  assert case.layout.rows // 128 > int(case.layout.edge_H[-1]) == 4
  return case


@pytest.fixture
def k_case(make_case):
  return make_case(K_COUNTS, *K_SHAPE)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("out_dtype", [jnp.float32, jnp.bfloat16])
def test_m_grouped_is_the_reference_without_races(platform, out_dtype, m_case):
  got, found = _run(platform, "m_grouped", m_case.rows, out_dtype=out_dtype)
  assert not found and got.dtype == out_dtype
  got, want = np.asarray(got, np.float32), m_case.m_grouped
  if out_dtype == jnp.float32:
    assert calc_diff(got, want) <= 1e-6
  assert max_relative(got, want) <= (2e-6 if out_dtype == jnp.float32 else 4e-3)
  assert not got[~np.asarray(m_case.layout.held_M)].any()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_k_grouped_is_the_reference_without_races(platform, k_case):
  got, found = _run(platform, "k_grouped", k_case.columns)
  assert not found and got.dtype == jnp.float32
  want = k_case.k_grouped
  assert calc_diff(got, want) <= 1e-6 and max_relative(got, want) <= 2e-6
  assert not np.asarray(got)[1].any()


def test_what_xla_makes_of_it_is_the_reference(m_case, k_case):
  for out_dtype, bound in ((jnp.float32, 2e-6), (jnp.bfloat16, 4e-3)):
    got = jax.jit(functools.partial(xla.m_grouped, out_dtype=out_dtype))(*m_case.rows)
    assert got.dtype == out_dtype
    assert max_relative(got.astype(jnp.float32), m_case.m_grouped) <= bound
  assert max_relative(jax.jit(xla.k_grouped)(*k_case.columns), k_case.k_grouped) <= 2e-6


def test_the_reference_is_the_unquantised_product(m_case, k_case):
  want = m_case.products(m_case.x_MK, m_case.w_GNK)
  assert calc_diff(m_case.m_grouped, want) < 1e-3
  assert calc_diff(ref.m_grouped(*m_case.rows, out_dtype=jnp.bfloat16), want) < 1e-3
  want = k_case.matrices(k_case.dy_MN, k_case.x_MK)
  assert calc_diff(k_case.k_grouped, want) < 1e-3


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_stands_in_a_padding_row_stays_there(platform, m_case):
  a_MK, a_scale_CM, *rest = m_case.rows
  held_M = m_case.layout.held_M
  a_MK = jnp.where(held_M[:, None], a_MK, jnp.nan)
  a_scale_CM = jnp.where(held_M, a_scale_CM, jnp.nan)
  got, _ = _run(platform, "m_grouped", (a_MK, a_scale_CM, *rest), out_dtype=jnp.float32)
  assert max_relative(got[held_M], m_case.m_grouped[held_M]) <= 2e-6


# Mutations: each breaks one named function of a kernel, and what is checked above must notice.


@pytest.fixture
def mutate(monkeypatch):
  """mutate(platform, name, broken); jax keeps traced kernels, the broken ones must not be kept."""

  def broken(platform, name, function):
    monkeypatch.setattr({"tpu": tpu, "mgpu": mgpu}[platform], name, function)
    jax.clear_caches()

  yield broken
  jax.clear_caches()


def _swapped(group_T, t):
  """The first tile's group for the third and the other way round."""
  return group_T[jnp.where(t == 0, 2, jnp.where(t == 2, 0, t))]


def _shifted(*where):
  """The scale of the block before, for all but the first block of the contraction."""
  *group_n, chunk = where
  *group, n = group_n
  return *(group or [0]), n, jnp.maximum(chunk - 1, 0)


def _never_set(*acc):
  """A TPU's sum begins as whatever memory holds, a Hopper's as whatever registers do."""
  return None if acc else jnp.full((mgpu.ROWS, 128), jnp.nan)


def _wrong_or_racing(platform, op, case):
  operands, options = case.columns, {}
  if op == "m_grouped":
    operands, options = case.rows, {"out_dtype": jnp.float32}
  got, found = _run(platform, op, operands, **options)
  return not calc_diff(got, getattr(case, op)) <= WRONG, bool(found)  # NaN is wrong too


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
  "name, broken", [("group_of", _swapped), ("block_of", _shifted), ("start", _never_set)]
)
def test_a_broken_m_grouped_is_noticed(platform, name, broken, m_case, mutate):
  mutate(platform, name, broken)
  wrong, _ = _wrong_or_racing(platform, "m_grouped", m_case)
  assert wrong


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_broken_k_grouped_is_noticed(platform, k_case, mutate):
  mutate(platform, "start", _never_set)
  wrong, _ = _wrong_or_racing(platform, "k_grouped", k_case)
  assert wrong


@needs_mgpu
@pytest.mark.parametrize(
  "op, name",
  [
    ("m_grouped", "fence_reads"),
    ("k_grouped", "fence_reads"),
    ("k_grouped", "publish"),
    ("k_grouped", "await_stores"),
  ],
)
def test_missing_synchronisation_is_a_race(op, name, m_case, k_case, mutate):
  """Whether the values are wrong too depends on how the interpreter's threads happen to run."""
  mutate("mgpu", name, lambda: None)
  _, racing = _wrong_or_racing("mgpu", op, m_case if op == "m_grouped" else k_case)
  assert racing


@pytest.mark.skipif(compat.HAS_MGPU, reason="this jax has what Hopper kernels need")
def test_an_old_jax_is_refused(m_case):
  with pytest.raises(dispatch.Unsupported, match="jax 0.11.2"):
    mgpu.m_grouped(*m_case.rows, out_dtype=jnp.float32)
