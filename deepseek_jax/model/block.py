"""One transformer layer: pre-norm attention, then a dense or an expert feed-forward."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepseek_jax.config import ComputeConfig, MLAConfig, ModelConfig, require
from deepseek_jax.model.gqa import GQA
from deepseek_jax.model.layers import FeedForward, norm_scale, rms_norm
from deepseek_jax.model.mla import MLA
from deepseek_jax.model.moe import MoE
from deepseek_jax.ops.precision import precision_of
from deepseek_jax.sharding import attention_split, constrain_rows, splits_tokens
from deepseek_jax.types import Routing, Span


class Block(nn.Module):
  """A layer in the form of a scan's body: the hidden state is carried, the rest comes and goes."""

  config: ModelConfig
  compute: ComputeConfig
  mesh: jax.sharding.Mesh | None
  experts: bool
  absorbed: bool = False

  @nn.compact
  def __call__(self, x_BTD, bias_E, cache, rotation, queries: Span, keys: Span, index):
    """Returns the hidden state, and (Routing or None, the layer's cache or None)."""
    c, precision = self.config, precision_of(self.compute, self.mesh)
    scale_D = norm_scale(self, "attention_norm_D", c.d_model)
    attended, cache = self._attention(
      rms_norm(x_BTD, scale_D, c.norm_eps), rotation, queries, keys, cache, index
    )
    x_BTD = constrain_rows(self.mesh, x_BTD + attended)
    h_BTD = rms_norm(x_BTD, norm_scale(self, "ffn_norm_D", c.d_model), c.norm_eps)
    if not self.experts:
      dense = FeedForward(c.d_model, c.dense_ff, c.std, precision, self.mesh, name="ffn")
      return constrain_rows(self.mesh, x_BTD + dense(h_BTD)), (None, cache)
    assert c.moe is not None
    ffn = MoE(c.d_model, c.moe, c.std, self.compute.dispatch, self.mesh, precision, name="ffn")
    out_BTD, report = ffn(h_BTD, queries.segments_BT, bias_E)
    return constrain_rows(self.mesh, x_BTD + out_BTD), (report, cache)

  def _attention(self, x_BTD, rotation, queries: Span, keys: Span, cache, index):
    """Dispatches on the kind of attention, which is data: the type of its configuration."""
    c = self.config
    devices = attention_split(self.mesh, x_BTD.shape[0], c.heads)
    precision = precision_of(self.compute, self.mesh)
    how = (self.compute.attention_block, precision, devices, self.mesh)
    if isinstance(c.attention, MLAConfig):
      mla = MLA(c.d_model, c.heads, c.attention, c.rope, c.std, *how, name="attention")
      return mla(x_BTD, rotation, queries, keys, cache, index, self.absorbed)
    require(
      not splits_tokens(self.mesh, x_BTD.shape[1]),
      "mesh.context splits the tokens of MLA, and this model has grouped queries; make it 1.",
    )
    gqa = GQA(c.d_model, c.heads, c.attention, c.rope, c.norm_eps, c.std, *how, name="attention")
    return gqa(x_BTD, rotation, queries, keys, cache, index)


def no_routing(batch: int, length: int) -> Routing:
  """The report of a model without experts."""
  return Routing(
    load_LE=jnp.zeros((0, 0)),
    balance_L=jnp.zeros((0,)),
    experts_LBTA=jnp.zeros((0, batch, length, 0), jnp.int32),
  )
