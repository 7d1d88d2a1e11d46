"""The whole model: DeepSeek V3, V2, V2-Lite, and the dense students, by configuration.

One definition trains, decodes (absorbed, with a cache) and exports. Layers without experts and
layers with them are two scans, or one by one where they keep a cache (`layered`); this is the only
file that scans or rematerialises layers.
"""

import functools
import typing
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from deepseek_jax.config import ComputeConfig, MLAConfig, ModelConfig
from deepseek_jax.model.block import Block, no_routing
from deepseek_jax.model.cache import DecodeCache, Entry, extend
from deepseek_jax.model.layered import is_layered, unstack
from deepseek_jax.model.layers import matrix, norm_scale, rms_norm
from deepseek_jax.model.mtp import MTPModule
from deepseek_jax.ops.rope import angles
from deepseek_jax.sharding import balanced, constrain_rows
from deepseek_jax.types import Params, Routing, Span, Weights


@flax.struct.dataclass
class Output:
  """What a forward pass returns."""

  hidden_BTD: jax.Array  # after the final norm
  routing: Routing
  cache: DecodeCache | None


class Transformer(nn.Module):
  """Decoder-only transformer. It owns parameters; everything else is an argument or a result."""

  config: ModelConfig
  compute: ComputeConfig = ComputeConfig()
  mesh: jax.sharding.Mesh | None = None
  absorbed: bool = False
  layered: bool = False  # the layers' parameters are apart: see model/layered.py

  def setup(self):
    c = self.config
    self.embed_VD = matrix(self, "embed_VD", (c.vocab, c.d_model), c.std)
    if c.dense_layers and not self.layered:
      self.dense = self._stack(c.dense_layers, experts=False)
    if c.expert_layers and not self.layered:
      self.moe = self._stack(c.expert_layers, experts=True)
    self.norm_D = norm_scale(self, "norm_D", c.d_model)
    if not c.tied:
      self.head_DV = matrix(self, "head_DV", (c.d_model, c.vocab), c.std)
    module = _remat(MTPModule, self.compute.remat, unrolled=True)
    self.mtp = [
      module(c, self.compute, self.mesh, self.absorbed, name=f"mtp_{k}") for k in range(c.mtp_depth)
    ]

  def _stack(self, length: int, experts: bool) -> nn.Module:
    """`length` blocks, scanned: the router's bias goes in, Routing comes out.

    A short stack is unrolled, which spares moving parameters, what the backward pass needs and
    gradients in and out of stacked arrays: a tenth of a small model's step. Not so where layers
    are wholly made again: without a loop XLA may make several again before it needs the first.
    """
    unrolled = length <= self.compute.unroll and self.compute.remat != "full"
    block = _remat(Block, self.compute.remat, unrolled)
    broadcast = nn.broadcast
    return nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, 0, broadcast, broadcast, broadcast, broadcast),
      length=length,
      unroll=length if unrolled else 1,
    )(
      self.config, self.compute, self.mesh, experts, self.absorbed,
      name="moe" if experts else "dense",
    )  # fmt: skip

  def __call__(self, tokens_BT, span: Span, bias_LE, cache: DecodeCache | None) -> Output:
    """Runs the main model on the tokens, after those in the cache if there is one."""
    c = self.config
    reordered = cache is None and not self.absorbed  # only the ring takes tokens in any order
    if reordered:
      tokens_BT, span = balanced(self.mesh, (tokens_BT, span))
    x_BTD, rotation = self._embed(tokens_BT), self._rotation(span)
    routing = no_routing(*tokens_BT.shape)
    if self.layered:
      x_BTD, routing, cache = self._one_by_one(x_BTD, span, bias_LE, cache)
    elif c.dense_layers:
      x_BTD, _ = self.dense(x_BTD, None, None, rotation, span, span, None)
    if c.expert_layers and not self.layered:
      bias_LE = bias_LE[: c.expert_layers]
      x_BTD, (routing, _) = self.moe(x_BTD, bias_LE, None, rotation, span, span, None)
    hidden_BTD = rms_norm(x_BTD, self.norm_D, c.norm_eps)
    if reordered:
      hidden_BTD, routing = self._in_order(hidden_BTD, routing)
    return Output(hidden_BTD, routing, cache)

  def _in_order(self, hidden_BTD, routing: Routing) -> tuple[jax.Array, Routing]:
    """What comes of tokens in balanced order, in that of the text."""
    experts_BTLA = jnp.moveaxis(routing.experts_LBTA, 0, 2)
    hidden_BTD, experts_BTLA = balanced(self.mesh, (hidden_BTD, experts_BTLA), back=True)
    experts_LBTA = jnp.moveaxis(experts_BTLA, 2, 0)
    return hidden_BTD, Routing(routing.load_LE, routing.balance_L, experts_LBTA)

  def _one_by_one(self, x_BTD, span: Span, bias_LE, cache: DecodeCache | None):
    """The layers without a scan, each with its own parameters and entry of the cache."""
    c, rotation = self.config, self._rotation(span)
    keys, index = span, None
    if cache is not None:
      # Else XLA takes the sines into what uses them, and computes them once a layer.
      rotation = jax.lax.optimization_barrier(rotation)
      keys, index = extend(cache.span, span, cache.index), cache.index
    entries, reports = [], []
    for i in range(c.layers):
      experts = i >= c.dense_layers
      block = Block(c, self.compute, self.mesh, experts, self.absorbed, parent=None)
      params = self.variables["params"][f"layer_{i}"]
      bias = bias_LE[i - c.dense_layers] if experts else None
      old = None if cache is None else cache.layers[i]
      x_BTD, (report, new) = _layer(block, params, x_BTD, bias, old, rotation, span, keys, index)
      entries.append(new)
      reports += [report] if report is not None else []
    routing = no_routing(*x_BTD.shape[:2])
    if reports:
      routing = jax.tree.map(lambda *rows: jnp.stack(rows), *reports)
    if cache is not None:
      others = cache.layers[c.layers :]  # the drafting module's
      cache = DecodeCache((*entries, *others), keys, cache.index + x_BTD.shape[1])
    return x_BTD, routing, cache

  def predict_further(self, hidden_BTD, tokens_BT, span: Span, bias_LE):
    """The MTP modules' hidden states [P, B, T, D], normed for the head, and their Routing."""
    outs, reports = [], []
    ahead = [jnp.pad(tokens_BT[:, k:], ((0, 0), (0, k))) for k in range(1, len(self.mtp) + 1)]
    hidden_BTD, span, ahead = balanced(self.mesh, (hidden_BTD, span, ahead))
    rotation = self._rotation(span)
    for depth, (module, ahead_BT) in enumerate(zip(self.mtp, ahead, strict=True)):
      bias = None if self.config.moe is None else bias_LE[self.config.expert_layers + depth]
      out = module(hidden_BTD, self._embed(ahead_BT), bias, rotation, span)
      hidden_BTD, normed, report, _ = out
      report = no_routing(*tokens_BT.shape) if report is None else jax.tree.map(_row, report)
      normed, report = self._in_order(normed, report)
      outs.append(normed)
      reports.append(report)
    return jnp.stack(outs), jax.tree.map(lambda *rows: jnp.concatenate(rows), *reports)

  def draft(self, hidden_BTD, next_BT, span: Span, bias_LE, entry, keys: Span, index):
    """The first MTP module as a draftsman, with its own entry of the cache.

    Returns its hidden state, the same normed for the head, and the entry with the tokens in it.
    """
    bias = None if self.config.moe is None else bias_LE[self.config.expert_layers]
    x_BTD, rotation = self._embed(next_BT), self._rotation(span)
    out = self.mtp[0](hidden_BTD, x_BTD, bias, rotation, span, entry, keys, index)
    hidden_BTD, normed_BTD, _, entry = out
    return hidden_BTD, normed_BTD, entry

  def create(self, tokens_BT, span: Span, bias_LE):
    """Touches every parameter once; only initialisation calls it."""
    hidden_BTD = self(tokens_BT, span, bias_LE, None).hidden_BTD
    if self.mtp:
      self.predict_further(hidden_BTD, tokens_BT, span, bias_LE)

  def _embed(self, tokens_BT):
    return constrain_rows(self.mesh, self.embed_VD.astype(self.compute.dtype)[tokens_BT])

  def _rotation(self, span: Span):
    """Cosines and sines of the rotary dimensions at the queries' positions."""
    attention = self.config.attention
    dim = attention.rope_dim if isinstance(attention, MLAConfig) else attention.head_dim
    return angles(self.config.rope, dim, span.positions_BT)


def _row(x: jax.Array) -> jax.Array:
  """A layer's report as that of a stack of one."""
  return x[None]


@functools.partial(jax.jit, static_argnums=0)
def _layer(block: Block, params: Params, *args):
  """A layer by itself; within a larger program, equal ones are traced and lowered once."""
  return block.apply({"params": params}, *args)


def _remat(block: type[nn.Module], policy: str, unrolled: bool) -> type[nn.Module]:
  """A block under a named rematerialisation policy: none, full, or dots (keep matmul outputs).

  A loop keeps XLA from merging what is recomputed with the first computation; without one it must
  be told.
  """
  if policy == "none":
    return block
  kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if policy == "dots" else None
  return nn.remat(block, policy=kept, prevent_cse=unrolled)


def init_weights(model: Transformer, key: jax.Array) -> Weights:
  """Random float32 weights: matrices normal with the configuration's deviation, norms one, biases
  (those of the router too) zero.
  """
  c = model.config
  bias_LE = jnp.zeros((c.router_rows, c.moe.experts if c.moe else 0))
  tokens_BT = jnp.zeros((1, 2), jnp.int32)
  span = Span(tokens_BT, tokens_BT + 1)
  local = model.clone(mesh=None)
  params = local.init(key, tokens_BT, span, bias_LE, method=Transformer.create)["params"]
  return Weights(_draw(key, params), bias_LE)


def _draw(key: jax.Array, params: Params) -> Params:
  """`params` with normal values in place of matrices that hold their deviation (`layers.matrix`).

  Small matrices are cut from one draw: XLA takes 0.3 s on a CPU to compile each draw.
  """
  paths, tree = jax.tree_util.tree_flatten_with_path(params)
  matrix = [not any(word in path[-1].key for word in ("norm", "bias")) for path, _ in paths]
  together = [is_one and x.size <= 2**20 for is_one, (_, x) in zip(matrix, paths)]
  pool = jax.random.normal(key, (sum(x.size for small, (_, x) in zip(together, paths) if small),))
  drawn, at = [], 0
  for i, (_, x) in enumerate(paths):
    if together[i]:
      x *= pool[at : at + x.size].reshape(x.shape)
      at += x.size
    elif matrix[i]:
      x *= jax.random.normal(jax.random.fold_in(key, i), x.shape)
    drawn.append(x)
  return jax.tree.unflatten(tree, drawn)


def forward(
  model: Transformer,
  weights: Weights,
  tokens_BT: jax.Array,
  positions_BT: jax.Array,
  segments_BT: jax.Array,
  cache: DecodeCache | None = None,
  absorbed: bool = False,
) -> Output:
  """The main model. With a cache, tokens follow those already in it; see `DecodeCache`.

  Weights may be stacked or layered (model/layered.py); with a cache they are best layered before.

  `absorbed` multiplies MLA's up-projections into query and output, which is cheaper when few
  queries meet many cached keys; the result is the same up to rounding.
  """
  span = Span(positions_BT, segments_BT)
  if cache is not None and not is_layered(weights):
    weights = unstack(model.config, weights)
  module = model.clone(absorbed=absorbed, layered=is_layered(weights))
  variables = {"params": weights.params}
  out = module.apply(variables, tokens_BT, span, weights.router_bias_LE, cache)
  return typing.cast(Output, out)


def mtp_hidden(
  model: Transformer,
  weights: Weights,
  hidden_BTD: jax.Array,
  tokens_BT: jax.Array,
  positions_BT: jax.Array,
  segments_BT: jax.Array,
) -> tuple[jax.Array, Routing]:
  """Hidden states [P, B, T, D] of the MTP modules: depth k (from 1) at t predicts token t + k + 1.

  `hidden_BTD` is the main model's output. Positions whose future tokens lie beyond the row or in
  another segment hold values without meaning; the loss masks them.
  """
  out = model.apply(
    {"params": weights.params}, hidden_BTD, tokens_BT, Span(positions_BT, segments_BT),
    weights.router_bias_LE, method=Transformer.predict_further,
  )  # fmt: skip
  return typing.cast(tuple[jax.Array, Routing], out)


def mtp_draft(
  model: Transformer,
  weights: Weights,
  hidden_BTD: jax.Array,
  next_BT: jax.Array,
  span: Span,
  entry: Entry,
  keys: Span,
  index: jax.Array,
) -> tuple[jax.Array, jax.Array, Entry]:
  """The first MTP module after tokens whose states are `hidden_BTD` and whose successors `next_BT`.

  Its `entry` of the cache is written from slot `index` on; `keys` say what is in all its slots.
  Returns its hidden states, which may stand for the main model's one token further on, the same
  normed for the head, and the entry.
  """
  module = model.clone(absorbed=True, layered=True)
  out = module.apply(
    {"params": weights.params}, hidden_BTD, next_BT, span, weights.router_bias_LE, entry, keys,
    index, method=Transformer.draft,
  )  # fmt: skip
  return typing.cast(tuple[jax.Array, jax.Array, Entry], out)


def head_DV(model: Transformer, weights: Weights) -> Any:
  """The output projection in the compute dtype; the embedding transposed when tied.

  Weights prepared for decoding on a CPU have it oriented (`ops.oriented`), a tied one too.
  """
  params = weights.params
  head = params["head_DV"] if "head_DV" in params else params["embed_VD"].T
  return head.astype(model.compute.dtype)


def logits(
  model: Transformer,
  weights: Weights,
  tokens_BT: jax.Array,
  positions_BT: jax.Array | None = None,
  segments_BT: jax.Array | None = None,
) -> jax.Array:
  """Float32 logits [B, T, V] of whole rows; for small vocabularies and tests."""
  if positions_BT is None:
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
  if segments_BT is None:
    segments_BT = jnp.ones_like(tokens_BT)
  out = forward(model, weights, tokens_BT, positions_BT, segments_BT)
  return (out.hidden_BTD @ head_DV(model, weights)).astype(jnp.float32)
