"""The reward head: one number for a text, read off the hidden state of its last token.

A reward model is a language model with this head (2203.02155, section 3.5): its weights are the
language model's, output head and MTP modules included though nothing uses them, with the head's one
parameter beside them in `params["reward"]`. Ordinary weights have no such entry, and
`transformer.forward` passes over it.

The head has no bias. The loss of a pair depends on differences only, and what single labels ask for
beyond that the final norm's hidden state can bring. It begins as zeros, so that every text has
reward 0 and training starts from ln 2.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from deepseek_jax.model.transformer import Transformer, forward
from deepseek_jax.types import Routing, Weights

HEAD = "reward"


class RewardHead(nn.Module):
  """reward = value . hidden, in float32."""

  @nn.compact
  def __call__(self, hidden_BD: jax.Array) -> jax.Array:
    value_D = self.param("value_D", nn.initializers.zeros, hidden_BD.shape[-1:], jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("BD,D->B", hidden_BD.astype(jnp.float32), value_D, precision=highest)


def has_head(weights: Weights) -> bool:
  """Whether these are the weights of a reward model."""
  return HEAD in weights.params


def with_head(weights: Weights) -> Weights:
  """The weights of a reward model: with a head of zeros unless they have one; jit-able."""
  if has_head(weights):
    return weights
  width = weights.params["norm_D"].shape[-1]
  head = {"value_D": jnp.zeros((width,), jnp.float32)}
  return Weights({**weights.params, HEAD: head}, weights.router_bias_LE)


def without_head(weights: Weights) -> Weights:
  """The weights of the language model beneath."""
  params = {name: value for name, value in weights.params.items() if name != HEAD}
  return Weights(params, weights.router_bias_LE)


def text_rewards(
  model: Transformer,
  weights: Weights,
  tokens_BT: jax.Array,
  positions_BT: jax.Array,
  segments_BT: jax.Array,
) -> tuple[jax.Array, Routing]:
  """Float32 rewards [B] of rows that hold one text each, and the Routing of their tokens.

  Segment 0 is padding, on whichever side; a row of padding alone has a reward without meaning.
  """
  out = forward(model, weights, tokens_BT, positions_BT, segments_BT)
  last_B = jnp.max(jnp.where(segments_BT > 0, jnp.arange(tokens_BT.shape[1]), 0), axis=-1)
  hidden_BD = jnp.take_along_axis(out.hidden_BTD, last_B[:, None, None], axis=1)[:, 0]
  return RewardHead().apply({"params": weights.params[HEAD]}, hidden_BD), out.routing  # type: ignore[return-value]
