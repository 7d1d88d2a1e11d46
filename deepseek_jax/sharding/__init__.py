"""Meshes, and where every array of the project lies on them.

A mesh has five axes. `data`, `fsdp` and `expert` split the rows of a batch; `fsdp` also splits
weights and optimiser state (ZeRO-3, 1910.02054); `expert` splits the experts, and what else there
is as `fsdp` does; `context` splits the tokens of a row, and weights likewise; `tensor` splits
heads, feed-forwards and the vocabulary (Megatron, 1909.08053). XLA places every collective but
those under shard_map: the exchange of tokens over `expert` (`sharded_expert_ffn`, ops/exchange.py),
the ring over `context` (`sharded_ring`, ops/ring.py), weights gathered for products and their
gradients added up (`on_own_tokens`), and the loss's (`by_rows`).

An array is placed by the axis letters that end its name (the legend is in `types.py`) and by one
table, `MESH_AXIS`. So parameters, their Adam moments, their EMA, batches and caches need no
annotations of their own. An axis that its mesh axes do not divide is split by those of them that
do, or stays whole (two key/value heads on `tensor=4`); only experts must divide, for a device must
own whole ones.

What is to come has its place: a pipeline axis is one for the stacked layer axis, which is the
unnamed leading axis here.
"""

from deepseek_jax.sharding.mapped import (
  balanced,
  by_rows,
  flat,
  on_own_tokens,
  sharded_expert_ffn,
  sharded_ring,
  unflat,
)
from deepseek_jax.sharding.mesh import AXES, ROWS, SPLIT, TOKENS, MeshConfig, make_mesh
from deepseek_jax.sharding.placement import (
  MESH_AXIS,
  attention_split,
  constrain_rows,
  init_sharded,
  own_rows,
  parameter_spec,
  row_devices,
  shard_batch,
  splits_tokens,
  state_shardings,
)

__all__ = [
  "AXES",
  "MESH_AXIS",
  "ROWS",
  "SPLIT",
  "TOKENS",
  "MeshConfig",
  "attention_split",
  "balanced",
  "by_rows",
  "constrain_rows",
  "flat",
  "init_sharded",
  "make_mesh",
  "on_own_tokens",
  "own_rows",
  "parameter_spec",
  "row_devices",
  "shard_batch",
  "sharded_expert_ffn",
  "sharded_ring",
  "splits_tokens",
  "state_shardings",
  "unflat",
]
