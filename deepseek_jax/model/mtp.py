"""Multi-token prediction modules (2412.19437, section 2.2).

The paper concatenates [hidden; embedding]; the released weights need [embedding; hidden], and take
the main model's hidden state after its final norm (vLLM and SGLang agree). We follow the weights.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepseek_jax.config import ComputeConfig, ModelConfig
from deepseek_jax.model.block import Block
from deepseek_jax.model.layers import matrix, norm_scale, rms_norm
from deepseek_jax.ops.oriented import product
from deepseek_jax.sharding import on_own_tokens


class MTPModule(nn.Module):
  """Depth k: from the hidden state that knows tokens up to t + k - 1, and token t + k."""

  config: ModelConfig
  compute: ComputeConfig
  mesh: jax.sharding.Mesh | None
  absorbed: bool = False

  @nn.compact
  def __call__(
    self, hidden_BTD, embedded_BTD, bias_E, rotation, span, cache=None, keys=None, index=None
  ):
    """Returns the module's hidden state, the same normed for the shared head, Routing and cache."""
    c, D = self.config, self.config.d_model
    left = rms_norm(embedded_BTD, norm_scale(self, "embed_norm_D", D), c.norm_eps)
    right = rms_norm(hidden_BTD, norm_scale(self, "hidden_norm_D", D), c.norm_eps)
    merge_WD = matrix(self, "merge_WD", (2 * D, D), c.std).astype(hidden_BTD.dtype)
    merged_BTW = jnp.concatenate([left, right], axis=-1)
    x_BTD = on_own_tokens(self.mesh, product, merged_BTW, {"merge_WD": merge_WD})
    block = Block(c, self.compute, self.mesh, c.moe is not None, self.absorbed, name="block")
    keys = span if keys is None else keys
    x_BTD, (report, cache) = block(x_BTD, bias_E, cache, rotation, span, keys, index)
    normed_BTD = rms_norm(x_BTD, norm_scale(self, "norm_D", D), c.norm_eps)
    return x_BTD, normed_BTD, report, cache
