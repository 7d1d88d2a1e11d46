"""Each product of a rounded linear layer is NumPy's of the rounded operands."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from deepseek_jax.config import PRECISIONS
from deepseek_jax.ops.dispatch import expert_ffn
from deepseek_jax.ops.feed_forward import feed_forward
from deepseek_jax.ops.linear import from_heads, linear
from deepseek_jax.ops.precision import ROUNDINGS, Precision
from deepseek_jax.ops.tiles import BLOCKS, COLUMNS, ROWS, Tiles
from tests.deepseek_jax.ops.test_tiles import numpy_rounded, wide

ROUNDED = [name for name in PRECISIONS if name != "plain"]


def bfloat16(x, tile):
  del tile
  return np.asarray(x, ml_dtypes.bfloat16).astype(np.float32)


def operands(precision):
  """A rounding to a tile, and the tiles of gradients in dy w' and in x' dy."""
  if precision == "bfloat16":
    return bfloat16, None, None
  blocks = precision == "fp8_gradient_blocks"
  return numpy_rounded, BLOCKS if blocks else ROWS, COLUMNS


def assert_near(found, wanted, tolerance=2e-6):
  """Equal but for the order in which float32 is summed."""
  np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def pulled(function, *args):
  """The value and the gradients, with the output's gradient made to have wide rows."""
  y, pull = jax.vjp(jax.jit(function), *args)
  d = wide(9, *y.reshape(-1, y.shape[-1]).shape).reshape(y.shape) * np.float32(1e-6)
  return np.asarray(y), d, [np.asarray(g) for g in pull(jnp.asarray(d))]


def test_every_name_has_its_rounding():
  assert tuple(ROUNDINGS) == PRECISIONS


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("shape", [(2, 128, 256, 128), (2, 70, 100, 192)])
def test_a_linear_layer_has_three_rounded_products(shape, precision):
  B, T, D, F = shape
  x, w = wide(1, B * T, D).reshape(B, T, D), wide(2, D, F)
  y, d, (dx, dw) = pulled(functools.partial(linear, precision=Precision(precision)), x, w)
  rounding, rows, columns = operands(precision)
  x, d = x.reshape(-1, D), d.reshape(-1, F)
  x_kept, w_rounded = rounding(x, ROWS), rounding(w, BLOCKS)
  assert_near(y.reshape(-1, F), x_kept @ w_rounded)
  assert_near(dx.reshape(-1, D), rounding(d, rows) @ w_rounded.T)
  assert_near(dw, rounding(x_kept, COLUMNS).T @ rounding(d, columns))
  assert np.abs(y.reshape(-1, F) - x @ w).max() > 1e-3 * np.abs(y).max()  # it does round


@pytest.mark.parametrize("precision", ROUNDED)
def test_what_attention_put_out_is_kept_with_more_bits(precision):
  x, w = wide(3, 256, 128).reshape(2, 128, 4, 32), wide(4, 128, 256).reshape(4, 32, 256)
  y, d, (dx, dw) = pulled(functools.partial(from_heads, precision=Precision(precision)), x, w)
  rounding, rows, columns = operands(precision)
  x, w, d = x.reshape(256, 128), w.reshape(128, 256), d.reshape(256, 256)
  kept = bfloat16(x, None)
  if precision != "bfloat16":
    mantissa, exponent = np.frexp(x)
    kept = np.ldexp(np.rint(mantissa * 2**7), exponent - 7).astype(np.float32)  # 1 + 6 bits
  assert_near(y.reshape(256, 256), rounding(x, ROWS) @ rounding(w, BLOCKS))
  assert_near(dx.reshape(256, 128), rounding(d, rows) @ rounding(w, BLOCKS).T)
  assert_near(dw.reshape(128, 256), rounding(kept, COLUMNS).T @ rounding(d, columns))


def numpy_expert(x, gate, up, down, d, precision, weight=1.0, kept=True):
  """Of weight * down(silu(gate x) * up x): the value, and the gradients of x, weights and matrices.

  `weight` [N, 1] is put to h in the gradient of `down`, as ops/grouped.py does, whose second pass
  keeps nothing of SwiGLU (`kept`).
  """
  rounding, rows, columns = operands(precision)
  gate, up, down = (rounding(w, BLOCKS) for w in (gate, up, down))
  x = rounding(x, ROWS)
  g, u = x @ gate, x @ up
  o = rounding(g / (1 + np.exp(-g)) * u, ROWS) @ down
  if kept:
    g, u = rounding(g, ROWS), rounding(u, ROWS)
  sigmoid = 1 / (1 + np.exp(-g))
  h = g * sigmoid * u
  dh = rounding(d, rows) @ down.T
  d_weight = (dh * h).sum(1)
  dh = dh * weight
  dg, du = dh * u * sigmoid * (1 + g * (1 - sigmoid)), dh * g * sigmoid
  dx = rounding(dg, rows) @ gate.T + rounding(du, rows) @ up.T
  x = rounding(x, COLUMNS)
  dgate, dup = x.T @ rounding(dg, columns), x.T @ rounding(du, columns)
  return (
    o * weight,
    dx,
    d_weight,
    dgate,
    dup,
    rounding(h * weight, COLUMNS).T @ rounding(d, columns),
  )


def moderate(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_mostly_near(found, wanted):
  """A sum in another order may land beyond a tie and round to E4M3's next number: a few may."""
  off = np.abs(found - wanted) / np.abs(wanted).max()
  half, most, largest = np.quantile(off, (0.5, 0.9, 1))
  assert half < 1e-6 and most < 1e-4 and largest < 3e-2, (half, most, largest)


@pytest.mark.parametrize("precision", ROUNDED)
def test_a_feed_forward_keeps_what_swiglu_took(precision):
  x, *w = moderate(5, 200, 128), moderate(6, 128, 256), moderate(7, 128, 256), moderate(8, 256, 128)
  w = [0.1 * m for m in w]
  y, d, found = pulled(functools.partial(feed_forward, precision=Precision(precision)), x, *w)
  wanted_y, dx, _, *dw = numpy_expert(x, *w, d, precision)
  assert_mostly_near(y, wanted_y)
  for f, g in zip(found, (dx, *dw), strict=True):
    assert_mostly_near(f, g)


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("capacity", [288, 0])
def test_experts_round_within_their_own_tokens(capacity, precision):
  """All in slots (with empty ones behind), or all in blocks of the second pass."""
  N, E, D, F = 400, 3, 128, 256
  rng = np.random.default_rng(0)
  x, weights = moderate(1, N, D), rng.uniform(0.1, 1, (N, 1)).astype(np.float32)
  stacks = [0.1 * moderate(i, E, *s) for i, s in enumerate([(D, F), (D, F), (F, D)])]
  chosen = rng.choice(E, (N, 1), p=[0.6, 0.3, 0.1]).astype(np.int32)

  def run(x, weights, *stacks):
    how = {"implementation": "capacity", "precision": Precision(precision), "capacity": capacity}
    return expert_ffn(x, weights, chosen, *stacks, **how)

  y, d, found = pulled(run, x, weights, *stacks)
  wanted = [np.zeros_like(a) for a in (y, *found)]
  for e in range(E):
    items = np.flatnonzero(chosen[:, 0] == e)
    rows = capacity or 64  # of the second pass
    for start in range(0, len(items), rows):
      own = items[start : start + rows]
      part = numpy_expert(
        x[own], *(w[e] for w in stacks), d[own], precision, weights[own], kept=capacity > 0
      )
      wanted[0][own], wanted[1][own], wanted[2][own, 0] = part[:3]
      for w, p in zip(wanted[3:], part[3:], strict=True):
        w[e] += p
  for f, g in zip((y, *found), wanted, strict=True):
    assert_mostly_near(f, g)


@pytest.mark.parametrize("precision", ["plain", "fp8"])  # a weight is no more than a scale to E4M3
def test_dense_and_capacity_are_one_function(precision):
  N, E, D, F = 96, 4, 128, 128
  rng = np.random.default_rng(3)
  x, weights = moderate(4, N, D), rng.uniform(0.1, 1, (N, 2)).astype(np.float32)
  chosen = np.stack([rng.permutation(E)[:2] for _ in range(N)]).astype(np.int32)
  stacks = [0.1 * moderate(i, E, D, F) for i in range(3)]

  def run(implementation):
    return jax.jit(
      lambda *a: expert_ffn(
        a[0], a[1], chosen, *a[2:], implementation=implementation, precision=Precision(precision)
      )
    )

  dense, capacity, choices = (run(i)(x, weights, *stacks) for i in ("dense", "capacity", "choices"))
  assert_mostly_near(np.asarray(dense), np.asarray(capacity))
  assert_mostly_near(np.asarray(choices), np.asarray(capacity))


def test_bytes_between_forward_and_backward_are_a_quarter():
  """Of a feed-forward: its input and the two inputs of SwiGLU, in E4M3 with their scales."""
  N, D, F = 384, 128, 256
  x, *w = moderate(5, N, D), moderate(6, D, F), moderate(7, D, F), moderate(8, F, D)

  def kept(precision):
    _, pull = jax.vjp(functools.partial(feed_forward, precision=Precision(precision)), x, *w)
    arrays = [a for a in jax.tree.leaves(pull) if getattr(a, "shape", ())]
    assert sum(a.nbytes for a in arrays if a.shape in ((D, F), (F, D))) == 4 * 3 * D * F
    return [a for a in arrays if a.shape not in ((D, F), (F, D))]

  values = [a for a in kept("fp8") if a.dtype == ml_dtypes.float8_e4m3fn]
  scales = [a for a in kept("fp8") if a.dtype == jnp.float32]
  assert sorted(a.shape for a in values) == [(N, D), (N, D), (N, F), (N, F)]  # x for gate and up
  assert len(values) + len(scales) == len(kept("fp8"))
  assert 32 * sum(a.nbytes for a in scales) == sum(a.nbytes for a in values)
  assert sum(a.nbytes for a in kept("plain")) >= 4 * sum(a.nbytes for a in values)


def test_a_scan_of_layers_takes_half_the_memory_in_fp8():
  """As compiled; without a scan XLA's CPU compiler may keep float32 and round again."""
  N, D, F, L = 2048, 128, 256, 8
  stacks = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((L, D, F), (L, D, F), (L, F, D))]

  def memory(precision):
    def loss(stacks, x):
      def layer(x, w):
        return feed_forward(x, *w, precision=Precision(precision)), None

      return jnp.sum(jax.lax.scan(layer, x, stacks)[0] ** 2)

    x = jax.ShapeDtypeStruct((N, D), jnp.float32)
    return jax.jit(jax.grad(loss)).lower(stacks, x).compile().memory_analysis().temp_size_in_bytes

  assert memory("fp8") < memory("plain") / 2


def test_tiles_are_a_pytree_whose_tile_is_static():
  kept = ROUNDINGS["fp8"].keep(jnp.ones((2, 4, 128)))
  assert isinstance(kept, Tiles)
  assert jax.tree.map(lambda a: a, kept).tile == ROWS
  assert len(jax.tree.leaves(kept)) == 2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradients_keep_the_dtype_of_their_operands(precision):
  x, w = jnp.ones((4, 3), jnp.bfloat16), jnp.ones((3, 2), jnp.bfloat16)
  run = functools.partial(linear, precision=Precision(precision))
  dx, dw = jax.grad(lambda x, w: run(x, w).sum(), argnums=(0, 1))(x, w)
  assert run(x, w).dtype == dx.dtype == dw.dtype == jnp.bfloat16
