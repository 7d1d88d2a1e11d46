"""The quickest mesh that fits, beside all there are."""

import dataclasses

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.plan.estimate import plan
from deepseek_jax.plan.footprint import footprint
from deepseek_jax.plan.search import meshes, search
from deepseek_jax.plan.topology import topology
from tests.deepseek_jax.plan.workloads import MINI

PLACE = topology("h100-8")


def test_finds_the_quickest_of_all():
  found = search(MINI, PLACE, 1e9)
  every = []
  for mesh in meshes(MINI, PLACE, False):
    for count in (1, 2, 4, 8, 16):
      work = dataclasses.replace(MINI, mesh=mesh, rows=16 // count, micro_batches=count)
      try:
        every.append(plan(work, PLACE).seconds)
      except ConfigError:  # rows that do not divide
        continue
  assert found[0].seconds == pytest.approx(min(every), rel=1e-3)
  seconds = [made.seconds for made in found]
  assert all(later > 0.999 * sooner for sooner, later in zip(seconds, seconds[1:]))
  assert all(made.workload.tokens == MINI.tokens for made in found)


def test_meshes_are_those_that_can_be():
  found = list(meshes(MINI, PLACE, False))
  assert len(found) == len(set(found)) > 5
  assert {mesh.devices for mesh in found} == {8}
  assert {mesh.expert for mesh in found} == {1, 2, 4, 8}
  assert {mesh.tensor for mesh in found} == {1}  # of three heads
  dense = dataclasses.replace(MINI, model=dataclasses.replace(MINI.model, moe=None))
  assert {mesh.expert for mesh in meshes(dense, PLACE, False)} == {1}


def least_by_mesh(work=MINI):
  """What each mesh takes with its rows cut as small as can be."""
  found = {}
  for mesh in meshes(work, PLACE, False):
    for count in (1, 2, 4, 8, 16):
      if 16 // count % mesh.row_devices == 0:
        cut = dataclasses.replace(work, mesh=mesh, rows=16 // count, micro_batches=count)
        found[mesh] = min(footprint(cut).total, found.get(mesh, float("inf")))
  return found


def test_the_limit_is_kept():
  least = least_by_mesh()
  limit = sorted(least.values())[len(least) // 2]
  fitting = search(MINI, PLACE, limit)
  assert {made.workload.mesh for made in fitting} == {m for m, n in least.items() if n <= limit}
  assert all(made.footprint.total <= limit for made in fitting)
  assert 0 < len(fitting) < len(least)


def test_what_comes_nearest_is_told_where_nothing_fits():
  odd = dataclasses.replace(MINI, length=4097)  # which no context splits
  least = min(least_by_mesh(odd).values())
  with pytest.raises(ConfigError, match=r"no mesh of h100-8 fits .* mesh.fsdp=\d+, .* nearest"):
    search(odd, PLACE, 0.99 * least)
  with pytest.raises(ConfigError, match=r"parameters and moments fit into 1 kB; take more devices"):
    search(MINI, PLACE, 1000)


def test_the_tokens_of_a_row_are_split_where_nothing_else_fits_or_rows_are_few():
  least = min(least_by_mesh().values())
  assert {made.workload.mesh.context for made in search(MINI, PLACE, least)} == {1}
  assert min(made.workload.mesh.context for made in search(MINI, PLACE, 0.9 * least)) > 1
  few = dataclasses.replace(MINI, rows=4)
  assert max(made.workload.mesh.context for made in search(few, PLACE, 1e9)) > 1
