"""Arrays put on a mesh and read back, as far as one process can see; others: test_hosts.py."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from deepseek_jax.hosts import arrays
from deepseek_jax.hosts.vote import Vote


def test_what_is_placed_is_read_back():
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
  x_BT = np.arange(48.0).reshape(8, 6)
  tree = {"split": x_BT, "whole": np.int32(3)}
  where = {
    "split": NamedSharding(mesh, PartitionSpec("a", "b")),
    "whole": NamedSharding(mesh, PartitionSpec()),
  }
  placed = arrays.place(tree, where)
  assert all(placed[name].sharding == where[name] for name in tree)
  jax.tree.map(np.testing.assert_array_equal, arrays.read(placed), tree)


def test_a_process_alone_has_all_places_of_an_axis():
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
  for spec in (PartitionSpec("a", "b"), PartitionSpec(None, ("a", "b")), PartitionSpec()):
    assert arrays.own_slice(NamedSharding(mesh, spec), (16, 24), 1) == list(range(24))


def test_a_vote_of_one_counts_at_once():
  vote = Vote()
  assert not vote.by_any(False) and not vote.decided
  assert vote.by_any(True) and vote.decided
