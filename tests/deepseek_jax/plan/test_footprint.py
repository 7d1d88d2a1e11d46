"""Memory of a device: what each kind follows, by hand where it can be counted."""

import dataclasses

import pytest

from deepseek_jax.config import ComputeConfig
from deepseek_jax.plan.footprint import (
  activations,
  exchange_buffers,
  footprint,
  gathered,
  local_tokens,
  logits,
)
from deepseek_jax.plan.memory import cache_bytes
from deepseek_jax.plan.placement import exchanges
from deepseek_jax.sharding import MeshConfig
from tests.deepseek_jax.plan.workloads import MINI, SAMPLING, v3


def remat(work, policy):
  return dataclasses.replace(work, compute=dataclasses.replace(work.compute, remat=policy))


def test_what_is_kept_for_the_backward_pass_grows_with_the_policy():
  full, dots, none = (activations(remat(v3(), policy)) for policy in ("full", "dots", "none"))
  assert full < dots < none


def test_full_remat_keeps_one_residual_a_layer():
  tokens = local_tokens(MINI)
  deeper = dataclasses.replace(MINI, model=dataclasses.replace(MINI.model, layers=13))
  assert activations(deeper) - activations(MINI) == tokens * 10 * 96 * 2


def test_activations_follow_a_devices_rows():
  assert local_tokens(MINI) == 16 * 128 / MINI.mesh.row_devices
  twice = dataclasses.replace(MINI, rows=32)  # whose scores are within a tile
  assert activations(twice) == pytest.approx(2 * activations(MINI), rel=1e-6)


def test_gradients_are_added_up_over_micro_batches():
  one, many = footprint(MINI), footprint(dataclasses.replace(MINI, micro_batches=5))
  assert one.kinds["gradients"] == one.kinds["parameters"] - 4 * 3 * 8 / 4  # no router bias
  assert many.kinds["gradients"] == 2 * one.kinds["gradients"]


def test_the_largest_layer_is_gathered():
  alone = dataclasses.replace(MINI, mesh=MeshConfig())
  assert gathered(alone) == 0 == exchange_buffers(alone)
  split = v3(mesh=MeshConfig(fsdp=512), rows=512)
  layer = 11_320_164_608  # parameters of one expert layer
  assert gathered(split) == pytest.approx(3 * 2 * layer, rel=0.03)


def test_exchange_buffers_are_bounded():
  work = v3()
  if exchanges(work.mesh):
    assert 0 < exchange_buffers(work) <= 6 * 2**15 * 7168 * 2
    assert exchange_buffers(v3(rows=4096)) == exchange_buffers(work)


def test_a_chunk_of_logits():
  alone = dataclasses.replace(MINI, mesh=MeshConfig(), loss_chunk=64)
  assert logits(alone) == 3 * 4 * 64 * 512 + 512 * 96 * (2 * 2 + 4)


def test_sampling_holds_weights_and_caches_beside_the_state():
  work = dataclasses.replace(MINI, sampling=SAMPLING, rows=8, length=128)
  longer = dataclasses.replace(work, sampling=dataclasses.replace(SAMPLING, longest=100_000))
  found = footprint(longer)
  assert found.phase == "sampling"
  rows = 32 / work.mesh.row_devices
  assert found.kinds["caches"] == 1.5 * rows * cache_bytes(work.model, 100_016)
  assert found.kept == found.kinds["parameters"] + found.kinds["moments"]
  assert found.total == sum(found.kinds.values())


def test_float32_takes_more():
  wide = dataclasses.replace(MINI, compute=ComputeConfig(remat="full"))
  assert activations(wide) > 1.2 * activations(MINI)  # scores are float32 in either
