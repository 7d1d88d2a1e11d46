"""Pieces and blocks change nothing, hold little, are met only where needed and send nothing."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from deepseek_jax.ops import blockwise as module
from deepseek_jax.ops.attention import naive
from deepseek_jax.ops.blockwise import blockwise, plan
from deepseek_jax.ops.visibility import visible_blocks, visible_BTS
from deepseek_jax.types import SHARED, Span
from pallas_kernels.testing import aot

PROGRAMS = Path(__file__).with_name("attention_programs.py")
SCALE = 0.4


def inputs(B=4, T=13, H=8, G=4, seed=0):
  """q, k, v and a cotangent, float32."""
  rng = np.random.default_rng(seed)
  shapes = ((B, T, H, 6), (B, T, G, 6), (B, T, G, 5), (B, T, H, 5))
  return [rng.normal(size=s).astype(np.float32) for s in shapes]


def documents(B, T, seed=0):
  """Rows of documents of random lengths, each with positions of its own."""
  rng = np.random.default_rng(seed)
  starts = rng.random((B, T)) < 0.2
  starts[:, 0] = True
  first = np.maximum.accumulate(np.where(starts, np.arange(T), 0), axis=1)
  return Span((np.arange(T) - first).astype(np.int32), starts.cumsum(axis=1).astype(np.int32))


def gradients(fn, q, k, v, cotangent, where, **shardings):
  """The output and three gradients, compiled anew, since TILE may have changed."""

  def run(q, k, v, cotangent, where):
    out, pull = jax.vjp(lambda q, k, v: fn(q, k, v, where, where, SCALE), q, k, v)
    return out, *pull(cotangent)

  return jax.jit(run, **shardings), (q, k, v, cotangent, where)


def assert_same(got, expected):
  for name, x, y in zip(("out", "dq", "dk", "dv"), got, expected):
    np.testing.assert_allclose(x, y, atol=2e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize(("tile", "pieces"), [(10**6, 1), (128, 2), (32, 8), (1, 16)])
def test_pieces_of_rows_and_heads_change_nothing(groups, tile, pieces, monkeypatch):
  monkeypatch.setattr(module, "TILE", tile)
  q, k, v, cotangent = inputs(G=groups)
  if groups == 4:
    assert plan((4, 13, 4, 2, 6), 13, 4)[1].number == pieces
  run, args = gradients(functools.partial(blockwise, block=4), q, k, v, cotangent, documents(4, 13))
  expected, _ = gradients(naive, *args)
  assert_same(run(*args), expected(*args))


@pytest.mark.parametrize(
  "shape", [(1, 7, 1, 1), (3, 4096, 128, 1), (5, 999, 2, 4), (2, 64, 1, 128)]
)
@pytest.mark.parametrize("block", [1, 64, 1024, 10**5])
def test_a_tile_is_bounded_whatever_the_shape(shape, block):
  B, T, G, J = shape
  blocks, pieces = plan((*shape, 6), 4096, block)
  assert B % pieces.rows == 0 and G % pieces.heads == 0
  tile = (B // pieces.rows) * (G // pieces.heads) * J * blocks.queries * blocks.keys
  assert tile <= max(module.TILE, J * blocks.queries * blocks.keys)
  assert blocks.keys <= block and blocks.queries * J <= max(J, block)


def test_what_is_kept_is_operands_output_and_normaliser():
  q, k, v, cotangent = inputs(B=2, T=32)
  where = documents(2, 32)
  _, pull = jax.vjp(lambda q, k, v: blockwise(q, k, v, where, where, SCALE, 4), q, k, v)
  kept = sum(x.size for x in jax.tree.leaves(pull) if jnp.ndim(x) > 1)
  log_normaliser = q[..., 0].size
  assert kept <= q.size + k.size + v.size + cotangent.size + log_normaliser + 4 * 2 * 32


@pytest.mark.parametrize("seed", range(6))
def test_blocks_that_do_not_meet_have_nothing_to_see(seed):
  rng = np.random.default_rng(seed)
  positions = rng.integers(0, 9, (2, 2, 11))
  segments = rng.choice(
    [-1, 0, 1, 2, 9, SHARED + 1, 3 * SHARED + 2], (2, 2, 11), p=[0.1] * 3 + [0.2] * 3 + [0.1]
  )
  queries, keys = (Span(*(jnp.sort(x, axis=-1) for x in s)) for s in zip(positions, segments))
  seen = np.any(visible_BTS(queries, keys), axis=0)
  meet = np.asarray(visible_blocks(queries, keys, 3, 2))
  for n, m in np.ndindex(*meet.shape):
    assert meet[n, m] or not seen[3 * n : 3 * n + 3, 2 * m : 2 * m + 2].any()


def test_order_halves_the_pairs_of_blocks():
  where = Span(*[jnp.zeros((1, 64), jnp.int32)] * 2)  # which leaves open what is visible
  first, end = module._meetings(where, where, module.Blocks(4, 4, ordered=True))
  assert (end - first).sum() == 16 * 17 // 2
  first, end = module._meetings(where, where, module.Blocks(4, 4))
  assert (end - first).sum() == 16 * 16


@pytest.mark.parametrize("case", ["later keys", "other documents"])
def test_blocks_out_of_sight_are_not_read(case):
  """They may hold NaN, which any product would spread."""
  q, k, v, cotangent = inputs(B=2, T=16)
  if case == "later keys":
    where, unread, queries = documents(2, 16), np.arange(16) >= 8, np.arange(16) < 8
  else:
    segments = np.repeat([[1, 1, 2, 2]], 4, axis=1) * np.ones((2, 1), int)
    where = Span(np.tile(np.arange(8), (2, 2)), segments)
    unread, queries = np.arange(16) < 8, np.arange(16) >= 8
  cotangent = np.where(queries[:, None, None], cotangent, 0)
  run, args = gradients(functools.partial(blockwise, block=4), q, k, v, cotangent, where)
  expected = run(*args)
  bad_k, bad_v = (np.where(unread[:, None, None], np.nan, x) for x in (k, v))
  got = run(q, bad_k, bad_v, cotangent, where)
  whose = 2 if case == "later keys" else 4  # later queries do meet them, and give keys gradients
  for x, y in zip(got[:whose], expected):
    seen = queries if x.shape[2] == q.shape[2] else ~unread
    np.testing.assert_array_equal(x[:, seen], y[:, seen])


def test_split_by_jit_it_sends_nothing(monkeypatch):
  """Each device cuts its own rows and heads, and learns nothing of those of others."""
  monkeypatch.setattr(module, "TILE", 16)
  mesh = jax.make_mesh((2, 4), ("rows", "heads"), axis_types=(AxisType.Auto,) * 2)
  split = NamedSharding(mesh, P("rows", None, "heads"))
  attention = functools.partial(blockwise, block=4, devices=(2, 4))
  where = documents(4, 13)
  operands = inputs(H=16, G=8)
  assert plan((4, 13, 8, 2, 6), 13, 4, (2, 4))[1].number == 4
  rows = NamedSharding(mesh, P("rows"))
  shardings = {"in_shardings": (split,) * 4 + (rows,), "out_shardings": split}
  run, args = gradients(attention, *operands, where, **shardings)
  text = run.lower(*args).compile().as_text()
  assert not re.findall(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter", text)
  expected, _ = gradients(naive, *args)
  assert_same(run(*args), expected(*args))


@pytest.mark.slow  # a minute
def test_on_a_tpu_it_takes_little_more_than_its_operands_in_another_layout():
  """Four rows of V3's heads: 5.4 GB in and out, and 8.6 of scores against 1024 keys alone."""
  if reason := aot.missing("v5p"):
    pytest.skip(reason)
  report = aot.compile_file(PROGRAMS, ["v5p"])["v5p"]["gradient"]
  assert report.temp_bytes < 4e9
