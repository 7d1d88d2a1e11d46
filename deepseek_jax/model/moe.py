"""The mixture-of-experts feed-forward: router, routed experts, shared experts.

The router computes in float32 (as transformers does; DeepSeek's demo uses the activation dtype).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepseek_jax.config import MoEConfig
from deepseek_jax.model.layers import FeedForward, matrix
from deepseek_jax.ops import routing
from deepseek_jax.ops.dispatch import expert_ffn
from deepseek_jax.ops.precision import PLAIN, Precision
from deepseek_jax.ops.reach import devices_per_token
from deepseek_jax.sharding import flat, on_own_tokens, sharded_expert_ffn, unflat
from deepseek_jax.types import Routing


class MoE(nn.Module):
  """sum_i w_i FFN_i(x) over the chosen experts, plus the shared experts' FFN."""

  d_model: int
  config: MoEConfig
  std: float
  dispatch: str
  mesh: jax.sharding.Mesh | None
  precision: Precision = PLAIN

  @nn.compact
  def __call__(self, x_BTD, segments_BT, bias_E) -> tuple[jax.Array, Routing]:
    """Returns the output [B, T, D] and this layer's Routing (without its layer axis)."""
    c, D = self.config, self.d_model
    x_ND = flat(self.mesh, x_BTD)
    router_DE = matrix(self, "router_DE", (D, c.experts), self.std)
    x32_ND = x_ND.astype(jnp.float32)
    logits_NE = on_own_tokens(self.mesh, jnp.matmul, x32_ND, {"router_DE": router_DE})
    routed = routing.route(logits_NE, bias_E, c, self.precision.implementation)
    experts_NA, weights_NA = routed.experts_NA, routed.weights_NA.astype(x_BTD.dtype)
    out_ND = self._routed(x_ND, weights_NA, routed)
    if c.shared:
      width = c.shared * c.expert_ff
      out_ND += FeedForward(D, width, self.std, self.precision, self.mesh, name="shared")(x_ND)
    valid_BT, scores_NE = segments_BT > 0, routing.affinities(logits_NE, c)
    report = Routing(
      load_LE=routing.load(routing.chosen_mask(experts_NA, c.experts), flat(self.mesh, valid_BT)),
      balance_L=routing.balance_loss(unflat(self.mesh, scores_NE, x_BTD), valid_BT, c.top_k),
      experts_LBTA=unflat(self.mesh, experts_NA, x_BTD),
    )
    return unflat(self.mesh, out_ND, x_BTD), report

  def _routed(self, x_ND: jax.Array, weights_NA: jax.Array, routed: routing.Routed) -> jax.Array:
    """The weighted sum over each token's chosen experts."""
    E, D, F = self.config.experts, self.d_model, self.config.expert_ff
    stacks = [
      self.precision.operand(matrix(self, name, shape, self.std), x_ND.dtype)
      for name, shape in (("gate_EDF", (E, D, F)), ("up_EDF", (E, D, F)), ("down_EFD", (E, F, D)))
    ]
    how: dict[str, Any] = {"implementation": self.dispatch, "precision": self.precision}
    if self.mesh is None:
      return expert_ffn(x_ND, weights_NA, routed.experts_NA, *stacks, routed=routed, **how)
    how["reach"] = devices_per_token(self.config, self.mesh.shape["expert"])
    return sharded_expert_ffn(self.mesh, x_ND, weights_NA, routed.experts_NA, *stacks, **how)
