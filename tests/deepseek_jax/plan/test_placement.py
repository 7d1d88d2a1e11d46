"""What lies on a device that need not exist is what lies on one that does."""

import dataclasses
import math

import jax
import pytest

from deepseek_jax.model.adapters import LoRAConfig
from deepseek_jax.plan.placement import abstract_mesh, held
from deepseek_jax.sharding import MeshConfig, make_mesh, state_shardings
from deepseek_jax.train.optimizer import OptimizerConfig
from tests.deepseek_jax.plan.workloads import MINI, v3

MESHES = {
  "fsdp8": MeshConfig(fsdp=8),
  "fsdp2_expert4": MeshConfig(fsdp=2, expert=4),
  "data2_expert2_tensor2": MeshConfig(data=2, expert=2, tensor=2),
  "expert2_tensor4": MeshConfig(expert=2, tensor=4),  # three heads stay whole
}


@pytest.mark.parametrize("name", MESHES)
def test_bytes_are_those_of_arrays_on_real_devices(name):
  mesh = make_mesh(MESHES[name])
  weights = MINI.state.weights
  made = jax.jit(
    lambda: jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), weights),
    out_shardings=state_shardings(mesh, weights),
  )()
  on_first = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(made))
  assert held(MESHES[name], weights) == on_first
  assert dataclasses.replace(MINI, mesh=MESHES[name]).kept["parameters"] == on_first


@pytest.mark.parametrize("mesh", [MESHES["fsdp2_expert4"], MESHES["data2_expert2_tensor2"]])
@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"reference": True, "optimizer": OptimizerConfig(moment_dtype="float32", ema_decay=0.9)},
    {"lora": LoRAConfig(rank=4)},
  ],
)
def test_what_is_kept_is_the_state(mesh, changes):
  work = dataclasses.replace(MINI, mesh=mesh, **changes)
  kept, state = work.kept, work.state
  assert kept["parameters"] == held(mesh, state.weights)
  assert kept["moments"] == pytest.approx(held(mesh, state.opt_state), abs=8)  # its counter
  assert kept.get("reference", 0) == held(mesh, state.reference)
  assert kept.get("average", 0) == held(mesh, state.ema)


def test_arrays_tell_what_is_gathered():
  arrays = {array.path: array for array in MINI.arrays}
  stack, matrix = arrays["moe/ffn/gate_EDF"], arrays["moe/attention/out_HUD"]
  assert stack.in_place == ("expert",) and "fsdp" in stack.gathered and stack.layers == 2
  assert matrix.gathered and not matrix.in_place
  assert stack.used(MINI.mesh, 2) == 2 * stack.size / 4
  assert arrays["moe/ffn/router_DE"].used(MINI.mesh, 2) == 4 * arrays["moe/ffn/router_DE"].size


def test_v3_is_split_over_all_devices():
  kept, whole = v3().kept, v3(mesh=MeshConfig())
  assert kept["parameters"] < 0.02 * whole.kept["parameters"]
  assert kept["moments"] == pytest.approx(kept["parameters"], rel=0.01)  # two of half the bytes
  assert math.prod(abstract_mesh(v3().mesh).shape.values()) == 512
