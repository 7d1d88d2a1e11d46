"""Bytes on each device while a step is computed, by kind.

What a run keeps is counted from the arrays' own shapes where `sharding` puts them. What a step
holds besides is an estimate of what a compiler cannot avoid:

  gradients     float32, as the parameters; with several micro-batches the sum and one more
  activations   what is kept for the backward pass, and the largest block's intermediates with their
                gradients, attention's scores of a block of keys among them
  gathered      the largest layer's weights in use, as much fetched meanwhile, and its gradients
  exchange      tokens of a round sent and received, and what comes back
  logits        a chunk's in float32, their gradient, and the head
  sampler       in reinforcement its copy of the weights, and while it samples the caches, which
                double as they grow
"""

import dataclasses

from deepseek_jax.config import MLAConfig, ModelConfig
from deepseek_jax.ops.blockwise import TILE
from deepseek_jax.ops.exchange import ROUND_ROWS
from deepseek_jax.ops.reach import devices_per_token
from deepseek_jax.plan.memory import cache_bytes
from deepseek_jax.plan.placement import Placed, exchanges
from deepseek_jax.plan.workload import Workload

_KINDS = ("parameters", "reference", "average", "moments")  # kept from step to step


@dataclasses.dataclass(frozen=True)
class Footprint:
  """Bytes of one device by kind, of the phase of a step that takes most."""

  kinds: dict[str, float]
  phase: str = "update"

  @property
  def total(self) -> float:
    """All of them."""
    return sum(self.kinds.values())

  @property
  def kept(self) -> float:
    """What is there all the time: a compiled step's arguments, but for the batch."""
    return sum(self.kinds.get(kind, 0.0) for kind in _KINDS)


def footprint(workload: Workload) -> Footprint:
  """Of the update, or of sampling where that takes more."""
  kept = {kind: size for kind, size in workload.kept.items() if kind in _KINDS}
  if workload.sampling is not None:
    kept["sampler's weights"] = samplers_weights(workload)
  phases = [Footprint(kept | _update(workload))]
  if workload.sampling is not None:
    phases.append(Footprint(kept | {"caches": caches(workload)}, "sampling"))
  return max(phases, key=lambda phase: phase.total)


def _update(workload: Workload) -> dict[str, float]:
  return {
    "gradients": workload.kept["trained"] * min(2, workload.micro_batches),
    "activations": activations(workload),
    "gathered weights": gathered(workload),
    "exchange buffers": exchange_buffers(workload),
    "logits": logits(workload),
  }


def local_tokens(workload: Workload) -> float:
  """Tokens of a micro-batch on a device."""
  return workload.rows * workload.length / workload.mesh.token_devices


def activations(workload: Workload) -> float:
  """Residuals of all layers, and the intermediates of the one whose backward pass runs."""
  config, tokens, item = workload.model, local_tokens(workload), workload.item
  attention = attention_numbers(config) / min(workload.mesh.tensor, config.heads)
  dense, routed, shared = feed_forward_numbers(workload)
  # Where tokens are exchanged nothing of routed experts is kept: they are sent once more.
  hidden = all_layers(config, dense, shared + routed * (not exchanges(workload.mesh)))
  routed *= _of_a_round(workload)
  layers = config.layers + config.mtp_depth
  # Attention's gradients are summed in float32; a feed-forward's are of its own dtype.
  working = max(attention * (1 + 4 / item), 2 * dense, 2 * (routed + shared)) + 4 * config.d_model
  kept = {
    "full": layers * config.d_model,
    "dots": layers * (2 * config.d_model + attention) + hidden * 2 / 3,
    "none": layers * (6 * config.d_model + attention) + hidden,
  }[workload.compute.remat]
  return tokens * item * (kept + working) + _scores(workload)


def attention_numbers(config: ModelConfig) -> int:
  """Numbers of a token's queries, keys, values and output in one layer, of all heads."""
  attention = config.attention
  if isinstance(attention, MLAConfig):
    width = 2 * (attention.nope_dim + attention.rope_dim) + 2 * attention.v_dim
    return config.heads * width
  return 2 * (config.heads + attention.kv_heads) * attention.head_dim


def feed_forward_numbers(workload: Workload) -> tuple[float, float, float]:
  """Numbers of a token's hidden features on a device: in a dense layer, of routed and of shared
  experts in one that has them.

  Of routed experts a device has the rows of its own instead of its tokens', as many if loads are
  even.
  """
  config, tensor = workload.model, workload.mesh.tensor
  dense = 3 * config.dense_ff / tensor
  if config.moe is None:
    return dense, 0.0, 0.0
  hidden = 3 * config.moe.expert_ff / tensor
  return dense, config.moe.top_k * (hidden + 2 * config.d_model), config.moe.shared * hidden


def _of_a_round(workload: Workload) -> float:
  """The share of a device's rows of routed experts that are there at a time."""
  moe = workload.model.moe
  if moe is None or not exchanges(workload.mesh):
    return 1.0
  rows = local_tokens(workload) * devices_per_token(moe, workload.mesh.expert)
  return min(1.0, ROUND_ROWS / rows)


def all_layers(config: ModelConfig, dense: float, experts: float) -> float:
  """The sum over layers of what one without experts has, and one with them."""
  with_experts = config.expert_layers + (config.mtp_depth if config.moe else 0)
  return (config.layers + config.mtp_depth - with_experts) * dense + with_experts * experts


def _scores(workload: Workload) -> float:
  """Bytes of a tile of float32 scores, its weights and their gradients."""
  heads = workload.model.heads / min(workload.mesh.tensor, workload.model.heads)
  block = min(workload.compute.attention_block, workload.length)
  return 3 * 4 * min(float(TILE), local_tokens(workload) * heads * block)


def gathered(workload: Workload) -> float:
  """The largest layer's weights as they are used, fetched ahead and differentiated.

  The gradients of experts to which tokens are sent are summed over rounds, in float32.
  """
  stacks: dict[str, float] = {}
  for array in workload.arrays:
    if array.gathered and not is_vocabulary(array):
      group = array.path.partition("/")[0]
      summed = array.experts and exchanges(workload.mesh)
      times = 2 + 4 / workload.item if summed else 3
      stacks[group] = stacks.get(group, 0.0) + times * used_layer(workload, array)
  return max(stacks.values(), default=0.0)


def used_layer(workload: Workload, array: Placed) -> float:
  """Bytes of one layer of an array while it is used."""
  return array.used(workload.mesh, workload.item) / array.layers


def is_vocabulary(array: Placed) -> bool:
  """Whether it is the embedding or the head, which no layer uses."""
  return array.path in ("embed_VD", "head_DV")


def exchange_buffers(workload: Workload) -> float:
  """Tokens sent and received in a round, their results, and as much of their gradients."""
  config, mesh = workload.model, workload.mesh
  if config.moe is None or not exchanges(mesh):
    return 0.0
  rows = min(float(ROUND_ROWS), local_tokens(workload) * devices_per_token(config.moe, mesh.expert))
  return 6 * rows * config.d_model * workload.item


def logits(workload: Workload) -> float:
  """A chunk's logits, exponentials and gradient; head, embedding and the head's gradient."""
  config, mesh = workload.model, workload.mesh
  split = mesh.tensor if config.vocab % mesh.tensor == 0 else 1
  chunk = min(workload.loss_chunk, local_tokens(workload))
  matrix = config.vocab * config.d_model / split
  return 3 * 4 * chunk * config.vocab / split + matrix * (2 * workload.item + 4)


def samplers_weights(workload: Workload) -> float:
  """A copy in the compute dtype, which is there all the time (decode/weights.py)."""
  return float(sum(array.shard for array in workload.arrays) * workload.item)


def caches(workload: Workload) -> float:
  """Those of the rows that are sampled at a time."""
  plan = workload.sampling
  assert plan is not None
  rows = max(1.0, min(plan.rows, plan.samples) / workload.mesh.row_devices)
  tokens = plan.prompt + plan.longest
  return 1.5 * rows * cache_bytes(workload.model, tokens, dtype=workload.compute.dtype)
