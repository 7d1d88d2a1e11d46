"""Attention round a ring of devices is that of one, whatever lies where, and sends latents only."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from deepseek_jax.ops import blockwise
from deepseek_jax.ops.attention import naive
from deepseek_jax.ops.ring import mirrored, ring_attention
from deepseek_jax.types import SHARED, Span

B, T, H, C, K, R, U = 4, 32, 4, 6, 4, 2, 5
SCALE, BLOCK = 0.4, 3  # which does not divide what a device holds
AXES = ("rows", "context", "heads")
MESHES = {2: (2, 2, 2), 4: (2, 4, 1), 8: (1, 8, 1)}
NAMES = ("out", "q", "kv", "k_up", "v_up")


def zigzag(devices):
  """Each device has a part from the front and one from the back, so that all have as much to do."""
  parts = np.arange(T).reshape(2 * devices, -1)
  return np.concatenate([parts[[d, 2 * devices - 1 - d]].ravel() for d in range(devices)])


LAYOUTS = {
  "plain": lambda devices: np.arange(T),
  "zigzag": zigzag,
  "scattered": lambda devices: np.random.default_rng(devices).permutation(T),
}


def documents():
  """Rows of documents with positions of their own, and padding at the end of every other row."""
  starts = np.random.default_rng(1).random((B, T)) < 0.15
  starts[:, 0] = True
  starts[::2, 27] = True
  first = np.maximum.accumulate(np.where(starts, np.arange(T), 0), axis=1)
  segments = starts.cumsum(axis=1)
  segments[::2, 27:] = 0
  return np.arange(T) - first, segments


def branches():
  """A prompt of five tokens, and answers of nine that see it and themselves."""
  answer = (np.arange(T) + 4) // 9
  positions = np.where(answer == 0, np.arange(T), 5 + (np.arange(T) + 4) % 9)
  return [np.tile(x, (B, 1)) for x in (positions, np.where(answer == 0, 1, answer * SHARED + 1))]


SPANS = {
  "one document": [np.tile(np.arange(T), (B, 1)), np.ones((B, T))],
  "documents": documents(),
  "answers to one prompt": branches(),
}
SPANS = {name: Span(*(np.asarray(x, np.int32) for x in s)) for name, s in SPANS.items()}


def inputs(dtype=np.float32):
  """q, what is sent, two up-projections, and the output's gradient."""
  rng = np.random.default_rng(0)
  shapes = ((B, T, H, K + R), (B, T, C + R), (C, H, K), (C, H, U), (B, T, H, U))
  return [jnp.asarray(rng.normal(size=s), dtype) for s in shapes]


def on_one_device(q, kv, k_up, v_up, where):
  k = jnp.einsum("bsc,chk->bshk", kv[..., :C], k_up)
  rope = jnp.broadcast_to(kv[:, :, None, C:], (*k.shape[:3], R))
  v = jnp.einsum("bsc,chu->bshu", kv[..., :C], v_up)
  return naive(q, jnp.concatenate([k, rope], axis=-1), v, where, where, SCALE)


def over_devices(devices):
  """The same by `ring_attention` over a mesh whose axis `context` has so many devices."""
  mesh = jax.make_mesh(MESHES[devices], AXES, axis_types=(AxisType.Auto,) * 3)
  heads, tokens = P(None, "heads"), P("rows", "context")
  return jax.shard_map(
    functools.partial(ring_attention, scale=SCALE, block=BLOCK, axis="context"),
    mesh=mesh,
    in_specs=(P(*AXES), tokens, heads, heads, tokens),
    out_specs=P(*AXES),
    check_vma=False,
  )


@functools.cache
def compiled(devices):
  """The output and four gradients, of tokens that are laid out in a given order."""
  attention = over_devices(devices) if devices > 1 else on_one_device

  def run(q, kv, k_up, v_up, cotangent, where, order):
    def laid_out(q, kv, k_up, v_up):
      there = jax.tree.map(lambda x: x[:, order], (q, kv, where))
      out = attention(there[0], there[1], k_up, v_up, there[2])
      return out[:, jnp.argsort(order)]

    out, back = jax.vjp(laid_out, q, kv, k_up, v_up)
    return out, *back(cotangent)

  return jax.jit(run)


@functools.cache
def expected(case):
  return jax.device_get(compiled(1)(*inputs(), SPANS[case], np.arange(T)))


@pytest.fixture(autouse=True, scope="module")
def small_tiles():
  """So that a device cuts its rows and heads."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(blockwise, "TILE", 2 * BLOCK**2)
    yield


@pytest.mark.parametrize("case", SPANS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("devices", MESHES)
def test_values_and_gradients_are_those_of_one_device(devices, layout, case):
  got = compiled(devices)(*inputs(), SPANS[case], LAYOUTS[layout](devices))
  for name, x, y in zip(NAMES, got, expected(case)):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max(), err_msg=name)


def test_bfloat16_stays_bfloat16_and_near():
  got = compiled(4)(*inputs(jnp.bfloat16), SPANS["documents"], np.arange(T))
  for x, y in zip(got, expected("documents")):
    assert x.dtype == jnp.bfloat16
    np.testing.assert_allclose(x.astype(np.float32), y, atol=0.03 * np.abs(y).max())


def test_a_device_passes_over_what_it_cannot_see():
  """Which may be NaN: the second half is later, and of another document than the last quarter."""
  q, kv, k_up, v_up, _ = inputs()
  segments = np.repeat([1, 1, 1, 2], T // 4) * np.ones((B, 1))
  where = Span(np.tile(np.arange(T), (B, 1)), segments.astype(np.int32))
  bad = np.array(kv)
  bad[:, T // 2 : 3 * T // 4] = np.nan
  ring = jax.jit(over_devices(4))
  out, with_nan = ring(q, kv, k_up, v_up, where), ring(q, bad, k_up, v_up, where)
  sees_none = (np.arange(T) < T // 2) | (np.arange(T) >= 3 * T // 4)
  np.testing.assert_array_equal(out[:, sees_none], with_nan[:, sees_none])
  assert np.isnan(with_nan[:, ~sees_none]).all()


def test_what_goes_round_is_as_wide_as_the_cache():
  args = (*inputs(), SPANS["documents"])

  def loss(q, kv, k_up, v_up, cotangent, where):
    return jnp.sum(over_devices(8)(q, kv, k_up, v_up, where) * cotangent)

  text = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(*args).compile().as_text()
  sent = re.findall(r"= \(?(\w+\[[\d,]*\]).* collective-permute(?:-start)?\(", text)
  tokens = f"{B},{T // 8}"
  assert set(sent) == {f"f32[{tokens},{C + R}]", f"s32[{tokens}]"}


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_mirrored_tokens_are_as_late_on_each_device_and_come_back(devices):
  own = jax.devices()[:devices]
  mesh = jax.make_mesh((devices,), ("context",), axis_types=(AxisType.Auto,), devices=own)
  x_BT = jnp.arange(T)[None]

  def over(fn):
    return jax.shard_map(fn, mesh=mesh, in_specs=P(None, "context"), out_specs=P(None, "context"))

  there = over(lambda x: mirrored(x, "context"))(x_BT)
  assert sorted(np.ravel(there)) == list(range(T))
  sums = np.asarray(there).reshape(devices, -1).sum(axis=1)
  assert (sums == sums[0]).all()
  back = over(lambda x: mirrored(x, "context", back=True))(there)
  np.testing.assert_array_equal(back, x_BT)
