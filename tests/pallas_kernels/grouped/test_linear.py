"""The linear layers of experts: values, gradients, and what must not change them."""

import contextlib
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import compat
from pallas_kernels.gemm.recipe import V3, Recipe
from pallas_kernels.grouped import api
from pallas_kernels.grouped import layout as layouts
from pallas_kernels.testing import aot
from pallas_kernels.testing.oracles import calc_diff, max_relative

needs_mgpu = pytest.mark.skipif(not compat.HAS_MGPU, reason="Hopper kernels want jax 0.11.2")
FORMS = ("ref", "xla", "tpu", pytest.param("mgpu", marks=needs_mgpu))
QUICK = ("ref", "xla", "tpu")  # a Hopper kernel takes seconds in its interpreter
arrange = jax.jit(layouts.arrange, static_argnums=1)
G, N, K, CHOICES = 3, 128, 256, 300
PATTERNS = [
  (300, 0, 0),
  (0, 300, 0),
  (0, 0, 300),
  (150, 150, 0),
  (150, 0, 150),
  (0, 150, 150),
  (100, 70, 130),
  (0, 0, 0),  # all are held elsewhere
]


@contextlib.contextmanager
def _device(form):
  """Kernels run in their interpreters: a TPU's from memory full of NaN, or two multiprocessors."""
  with contextlib.ExitStack() as stack:
    if form == "tpu":
      from jax.experimental.pallas import tpu as pltpu

      interpreter = compat.tpu_interpreter(uninitialized_memory="nan")
      stack.enter_context(pltpu.force_tpu_interpret_mode(interpreter))
    if form == "mgpu":
      from jax.experimental.pallas import mosaic_gpu as plgpu

      interpreter = compat.gpu_interpreter(uninitialized_memory="nan")
      stack.enter_context(aot.pretended("h100", 2))
      stack.enter_context(plgpu.force_gpu_interpret_mode(interpreter))
    yield


@functools.cache
def _jitted(form, recipe):
  def run(x_RK, w_GNK, dy_RN, group_R, padding):
    """The result and the gradients of x and w; padding rows hold `padding`."""
    layout = layouts.arrange(group_R, G)

    def filled(x_RD):
      return jnp.where(layout.held_M[:, None], layouts.to_rows(x_RD, layout), padding)

    def linear(x_MK, w_GNK):
      options = {"implementation": form, "recipe": recipe, "out_dtype": jnp.float32}
      return api.grouped_linear(x_MK, w_GNK, layout, **options)

    y_MN, backward = jax.vjp(linear, filled(x_RK), w_GNK)
    dx_MK, dw_GNK = backward(filled(dy_RN))
    return layouts.from_rows(y_MN, layout), layouts.from_rows(dx_MK, layout), dw_GNK

  return jax.jit(run)


def _run(form, arrays, group_R, *, recipe=V3, padding=0.0):
  with _device(form):
    results = _jitted(form, recipe)(*arrays, jnp.asarray(group_R), padding)
  return [np.asarray(result) for result in results]


def _arrays(seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = (CHOICES, K), (G, N, K), (CHOICES, N)
  return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]


def _groups(counts, seed=0):
  """Choices of each group in random order; those that are left over are held elsewhere."""
  group_R = np.full(CHOICES, G)
  group_R[: sum(counts)] = np.repeat(np.arange(G), counts)
  return np.random.default_rng(seed).permutation(group_R)


@jax.jit
def _plain(x_RK, w_GNK, dy_RN, group_R):
  """The result and jax's own gradients of the unquantised layers."""

  def linear(x_RK, w_GNK):
    w_RNK = jnp.where((group_R < G)[:, None, None], w_GNK[jnp.minimum(group_R, G - 1)], 0)
    return jnp.einsum("rk,rnk->rn", x_RK, w_RNK, precision="highest")

  y_RN, backward = jax.vjp(linear, x_RK, w_GNK)
  return y_RN, *backward(dy_RN)


@pytest.mark.parametrize("form", FORMS)
def test_where_quantising_is_exact_so_are_values_and_gradients(form):
  """Integers up to 15 with scales of 2^k are exact in E4M3, and their sums in float32.

  What padding holds does not show, and a run repeats bit for bit.
  """
  arrays = [jnp.round(4 * x).clip(-15, 15) for x in _arrays()]
  group_R = _groups((130, 0, 100))
  wanted = _plain(*arrays, group_R)
  assert all(np.abs(jaxs).max() > 100 for jaxs in wanted)
  for padding in (np.nan, 1e30):
    got = _run(form, arrays, group_R, recipe=Recipe(power_of_two=True), padding=padding)
    for ours, jaxs in zip(got, wanted):
      np.testing.assert_array_equal(ours, jaxs)


@pytest.mark.parametrize("form", QUICK)
@pytest.mark.parametrize("counts", PATTERNS)
def test_empty_groups_in_every_pattern(form, counts):
  arrays, group_R = _arrays(), _groups(counts)
  got = _run(form, arrays, group_R)
  for ours, plain, refs in zip(got, _plain(*arrays, group_R), _run("ref", arrays, group_R)):
    assert calc_diff(ours, plain) < 1e-3
    assert max_relative(ours, refs) <= 2e-6
  for g, count in enumerate(counts):
    assert np.any(got[2][g]) == (count > 0)
  assert not got[0][group_R == G].any() and not got[1][group_R == G].any()


@pytest.mark.parametrize("form", QUICK)
def test_permuted_experts_permute_results_bit_for_bit(form):
  x_RK, w_GNK, dy_RN = _arrays()
  group_R = _groups((100, 70, 130))
  y_RN, dx_RK, dw_GNK = _run(form, (x_RK, w_GNK, dy_RN), group_R)
  for order in itertools.permutations(range(G)):
    place = np.argsort(order)
    permuted = _run(form, (x_RK, w_GNK[np.asarray(order)], dy_RN), place[group_R])
    for ours, theirs in zip(permuted, (y_RN, dx_RK, dw_GNK[np.asarray(order)])):
      np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("form", QUICK)
@settings(max_examples=5, deadline=None)
@given(st.integers(-6, 6), st.integers(-6, 6), st.integers(-6, 6), st.integers(0, 9))
def test_powers_of_two_scale_results_exactly(form, i, j, k, seed):
  x_RK, w_GNK, dy_RN = _arrays(seed)
  group_R = _groups((100, 0, 130), seed)
  y_RN, dx_RK, dw_GNK = _run(form, (x_RK, w_GNK, dy_RN), group_R)
  scaled = _run(form, (x_RK * 2.0**i, w_GNK * 2.0**j, dy_RN * 2.0**k), group_R)
  wanted = y_RN * 2.0 ** (i + j), dx_RK * 2.0 ** (j + k), dw_GNK * 2.0 ** (i + k)
  for ours, theirs in zip(scaled, wanted):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("form", QUICK)
def test_nothing_leaks_from_padding_and_runs_repeat_bit_for_bit(form):
  arrays, group_R = _arrays(), _groups((130, 0, 100))
  once = _run(form, arrays, group_R, padding=np.nan)
  again = _run(form, arrays, group_R, padding=1e30)
  for first, second in zip(once, again):
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("out_dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes_of_results_and_gradients(out_dtype):
  layout = arrange(jnp.asarray(_groups((130, 0, 100))), G)

  def both(x_MK, w_GNK):
    linear = functools.partial(api.grouped_linear, layout=layout, out_dtype=out_dtype)
    y_MN, backward = jax.vjp(linear, x_MK, w_GNK)
    return y_MN, *backward(y_MN)

  x_MK = jax.ShapeDtypeStruct((layout.rows, K), jnp.bfloat16)
  shapes = jax.eval_shape(both, x_MK, jax.ShapeDtypeStruct((G, N, K), jnp.float32))
  assert [x.dtype for x in shapes] == [out_dtype, jnp.bfloat16, jnp.float32]


def test_gradients_in_blocks_are_coarser_and_change_the_input_s_gradient_alone():
  arrays, group_R = _arrays(), _groups((130, 0, 100))
  arrays[2] *= jnp.exp2(2 * (jnp.arange(CHOICES) % 9))[:, None]  # rows of a block differ
  tiles = _run("xla", arrays, group_R)
  blocks = _run("xla", arrays, group_R, recipe=Recipe(gradient_blocks=True))
  np.testing.assert_array_equal(tiles[0], blocks[0])
  np.testing.assert_array_equal(tiles[2], blocks[2])
  plain = _plain(*arrays, group_R)[1]
  small_R = group_R < G
  small_R &= np.arange(CHOICES) % 9 == 0
  assert calc_diff(tiles[1][small_R], plain[small_R]) < 1e-3
  assert calc_diff(blocks[1][small_R], plain[small_R]) > 2e-3
  assert calc_diff(blocks[1], plain) < 1e-3


def test_kept_for_the_backward_pass_is_a_byte_per_element():
  layout = arrange(jnp.asarray(_groups((130, 0, 100))), G)
  x_MK = layouts.to_rows(_arrays()[0], layout)
  _, backward = jax.vjp(lambda x, w: api.grouped_linear(x, w, layout), x_MK, _arrays()[1])
  kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward) if hasattr(x, "dtype"))
  values = x_MK.size + G * N * K
  scales = 4 * (x_MK.size // 128 + G * N * K // 128**2)
  plan = sum(x.size * 4 for x in jax.tree.leaves(layout))
  assert values + scales <= kept <= values + scales + plan


@pytest.mark.parametrize(
  "change, words",
  [
    (lambda x, w, layout: (x[:, :100], w[:, :, :100], layout), "K = 100 and N = 128"),
    (lambda x, w, layout: (x[:128], w, layout), "x has 128 rows, its layout"),
    (lambda x, w, layout: (x, w[:2], layout), "the layout is not of .* rows, 2 groups"),
    (lambda x, w, layout: (x, w[:, :, :128], layout), "x has K = 256, w 128"),
  ],
)
def test_what_does_not_belong_together_is_refused(change, words):
  layout = arrange(jnp.asarray(_groups((130, 0, 100))), G)
  x_RK, w_GNK, _ = _arrays()
  with pytest.raises(ValueError, match=words):
    api.grouped_linear(*change(layouts.to_rows(x_RK, layout), w_GNK, layout))


def test_operands_that_are_not_e4m3_are_refused(make_case):
  a, a_scale, *rest = make_case((130, 0, 60, 128), 256, 512).rows
  with pytest.raises(ValueError, match="m_grouped takes E4M3 values, not float32"):
    api.m_grouped(a.astype(jnp.float32), a_scale, *rest)
  with pytest.raises(ValueError, match="takes float32 scales, not bfloat16"):
    api.m_grouped(a, a_scale.astype(jnp.bfloat16), *rest)
