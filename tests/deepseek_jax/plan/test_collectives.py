"""What is read from a compiled program: kinds, bytes, groups, and how often in loops."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from deepseek_jax.plan.collectives import collectives
from deepseek_jax.sharding import MeshConfig, make_mesh

MESH = MeshConfig(fsdp=4, tensor=2)


def sent(fn):
  """The collectives of a function of 8 x 16 float32 on each device."""
  own = jax.shard_map(
    fn, mesh=make_mesh(MESH), in_specs=P(("fsdp", "tensor")), out_specs=P(), check_vma=False
  )
  x = jax.ShapeDtypeStruct((64, 16), jnp.float32)
  return collectives(jax.jit(own).lower(x).compile().as_text(), 8)


@pytest.mark.parametrize(
  ("kind", "fn", "size", "group", "bytes_sent"),
  [
    ("all-gather", lambda x: jax.lax.all_gather(x, "fsdp", tiled=True), 2048, 4, 1536),
    ("all-reduce", lambda x: jax.lax.psum(x, "tensor"), 512, 2, 512),
    ("all-reduce", lambda x: jax.lax.psum(x, ("fsdp", "tensor")), 512, 8, 896),
    ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, "fsdp", tiled=True), 512, 4, 384),
    ("all-to-all", lambda x: jax.lax.all_to_all(x, "fsdp", 0, 0, tiled=True), 512, 4, 384),
    (
      "collective-permute",
      lambda x: jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]),
      512,
      8,
      512,
    ),
  ],
)
def test_a_collective_by_hand(kind, fn, size, group, bytes_sent):
  (one,) = sent(fn)
  assert (one.kind, one.size, one.group, one.times) == (kind, size, group, 1)
  assert one.sent == bytes_sent


def test_loops_are_counted_one_in_another():
  def turns(x):
    def outer(_, x):
      x = jax.lax.fori_loop(0, 3, lambda _, x: jax.lax.psum(x * 0.5, "tensor"), x)
      return jax.lax.psum(x, "fsdp")

    return jax.lax.fori_loop(0, 5, outer, x)

  assert {one.group: one.times for one in sent(turns)} == {2: 15, 4: 5}


def test_a_loop_that_ends_by_what_it_finds_counts_as_one_turn():
  def search(x):
    return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: jax.lax.psum(x, "fsdp"), x)

  assert [one.times for one in sent(search)] == [1]


def test_what_a_tpus_compiler_writes():
  """A loop's bound in its condition, groups spelled out, and two arrays at once."""
  text = """HloModule step
%condition (p: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(58)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}
%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %both = (bf16[4,8]{1,0:T(8,128)(2,1)}, f32[2]{0}) all-reduce(%x, %x), replica_groups={{0,1},{2,3}}
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while(%start), condition=%condition, body=%body
}
"""
  (one,) = collectives(text, 4)
  assert (one.kind, one.size, one.group, one.times) == ("all-reduce", 72, 2, 58)


@pytest.mark.parametrize(
  ("groups", "size"),
  [
    ("{{0,1},{2,3}}", 2),
    ("[2,4]<=[8]", 4),
    ("[4,2]<=[2,4]T(1,0)", 2),
    ("mesh['data'=1,'fsdp'=4,'tensor'=2] {'fsdp'}", 4),
    ("mesh['fsdp'=4,'tensor'=2] {'fsdp','tensor'}", 8),
    ("mesh['fsdp'=4,'tensor'=2] {'fsdp':(2)2,'tensor'}", 4),
  ],
)
def test_the_devices_of_a_group(groups, size):
  line = f"  %x = f32[8]{{0}} all-reduce(%y), channel_id=1, replica_groups={groups}, to_apply=%add"
  (one,) = collectives(f"ENTRY %main (y: f32[8]) -> f32[8] {{\n{line}\n}}\n", 8)
  assert one.group == size
