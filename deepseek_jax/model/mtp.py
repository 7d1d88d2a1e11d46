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


class MTPModule(nn.Module):
  """Depth k: from the hidden state that knows tokens up to t + k - 1, and token t + k."""

  config: ModelConfig
  compute: ComputeConfig
  mesh: jax.sharding.Mesh | None

  @nn.compact
  def __call__(self, hidden_BTD, embedded_BTD, bias_E, rotation, span):
    """Returns the module's hidden state, the same normed for the shared head, and its Routing."""
    c, D = self.config, self.config.d_model
    left = rms_norm(embedded_BTD, norm_scale(self, "embed_norm_D", D), c.norm_eps)
    right = rms_norm(hidden_BTD, norm_scale(self, "hidden_norm_D", D), c.norm_eps)
    merge_WD = matrix(self, "merge_WD", (2 * D, D), c.std).astype(hidden_BTD.dtype)
    x_BTD = jnp.concatenate([left, right], axis=-1) @ merge_WD
    block = Block(c, self.compute, self.mesh, c.moe is not None, name="block")
    x_BTD, (report, _) = block(x_BTD, bias_E, None, rotation, span, span, None)
    return x_BTD, rms_norm(x_BTD, norm_scale(self, "norm_D", D), c.norm_eps), report
