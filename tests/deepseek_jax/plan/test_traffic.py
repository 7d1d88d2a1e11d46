"""Bytes over links, by hand on small meshes, and by what must hold on any."""

import dataclasses

import jax
import pytest

from deepseek_jax.ops.reach import devices_per_token
from deepseek_jax.plan.collectives import collectives
from deepseek_jax.plan.compiled import lower_step
from deepseek_jax.plan.footprint import local_tokens
from deepseek_jax.plan.placement import exchanges
from deepseek_jax.plan.topology import topology
from deepseek_jax.plan.traffic import Bytes, copies, gather, joined, traffic
from deepseek_jax.presets import preset
from deepseek_jax.sharding import MeshConfig
from tests.deepseek_jax.plan.workloads import MINI, v3

DENSE = dataclasses.replace(
  MINI, model=preset("r1_distill_qwen_1_5b"), mesh=MeshConfig(fsdp=16), rows=16, length=4096
)


def test_a_gather_goes_over_the_network_once_per_node():
  mesh, cluster = MeshConfig(fsdp=32), topology("h100-32")
  moved = gather(mesh, cluster, ("fsdp",), 3200.0)
  assert moved.network == 3200 * 3 / 32  # a device's share, from three other nodes
  assert moved.link == 3200 * 7 / 8
  assert gather(mesh, cluster, (), 3200.0) == Bytes()
  assert gather(MeshConfig(fsdp=8), topology("h100-8"), ("fsdp",), 80.0) == Bytes(70.0, 0.0)


def test_the_last_axis_of_a_mesh_is_the_innermost():
  mesh, cluster = MeshConfig(fsdp=8, expert=2, tensor=4), topology("h100-64")
  assert [joined(mesh, cluster, (axis,)) for axis in ("tensor", "expert", "fsdp")] == [4, 2, 1]
  assert joined(mesh, cluster, ("fsdp", "expert", "tensor")) == 8


def test_weights_and_gradients_of_a_dense_model():
  sent = traffic(DENSE, topology("v5e-16"))
  split = sum(a.size for a in DENSE.arrays if a.gathered)
  assert sent["weights"].link == pytest.approx(2 * 2 * split * 15 / 16)
  whole = sum(a.used(DENSE.mesh, 2) for a in DENSE.arrays if not a.gathered)
  assert sent["gradients"].link == pytest.approx(2 * split * 15 / 16 + 2 * whole * 15 / 16)
  assert set(sent) == {"weights", "gradients"}


def test_one_device_sends_nothing():
  alone = dataclasses.replace(MINI, mesh=MeshConfig())
  assert traffic(alone, topology("h100-1")) == {}


def test_features_are_summed_over_tensor():
  work = dataclasses.replace(DENSE, mesh=MeshConfig(tensor=4), rows=2)
  sent = traffic(work, topology("h100-4"))
  size = 2 * 4096 * 1536 * 2
  assert sent["features"].link == pytest.approx(size * 3 / 4 * 2 * 2 * 3 * 28)
  assert sent["features"].network == 0


def test_tokens_travel_to_the_devices_of_their_experts():
  work, pod = v3(), topology("v5p-1024")
  sent = traffic(work, pod)["tokens"]
  if not exchanges(work.mesh):
    return
  each = devices_per_token(work.model.moe, 64) * 63 / 64
  assert copies(work, pod).link == pytest.approx(each)
  rows = each * local_tokens(work) * 59
  assert sent.link == pytest.approx(rows * 7168 * 2 * 5)
  precise = v3(compute=dataclasses.replace(work.compute, precision="fp8"))
  assert traffic(precise, pod)["tokens"].link < 0.85 * sent.link  # dispatched in a byte a number


def test_experts_over_nodes_use_both_kinds_of_links():
  work = v3()
  away = copies(work, topology("h800-512"))
  if exchanges(work.mesh):
    assert away.network > away.link > 0
    assert away.network / away.link == pytest.approx(56 / 7)


def test_micro_batches_gather_the_weights_anew():
  once = traffic(DENSE, topology("v5e-16"))
  twice = traffic(dataclasses.replace(DENSE, micro_batches=2), topology("v5e-16"))
  assert twice["weights"].link == 2 * once["weights"].link


def test_the_ring_sends_what_the_compiled_step_does():
  model = dataclasses.replace(MINI.model, moe=None, mtp_depth=0)
  compute = dataclasses.replace(MINI.compute, dtype="float32", attention_block=16)
  mesh = MeshConfig(data=2, context=4)
  work = dataclasses.replace(MINI, model=model, mesh=mesh, compute=compute, rows=2, length=64)
  text = lower_step(work, jax.devices(), "cpu").compile().as_text()
  found = [one for one in collectives(text, 8) if one.kind == "collective-permute"]
  found = [one for one in found if one.times > 1]  # and not what puts tokens into balanced order
  planned = traffic(work, topology("v5e-8"))["ring"].link
  assert sum(one.sent for one in found) == pytest.approx(planned, rel=0.05)
