"""Routing as the model calls it.

There is no Hopper kernel: XLA compiles the `xla` form to a handful of fusions there, a kernel that
holds 64 tokens by 256 experts in a warpgroup's registers spills over a thousand bytes, and none is
worth keeping before a device has shown it to be faster. There None runs `xla`.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels import dispatch
from pallas_kernels.routing import ref, tpu, xla
from pallas_kernels.routing.rule import Routing, Rule

_FORMS = {"ref": ref.route, "xla": xla.route, "tpu": tpu.route}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def route(
  logits_NE: jax.Array, bias_E: jax.Array, rule: Rule, implementation: str | None = None
) -> Routing:
  """Experts, weights, ranks and counts of tokens whose router gave these logits.

  Affinities are the logits' sigmoid or softmax in float32. The bias is added for the selection
  only: weights are the affinities of the chosen, normalised where the rule says so, times its
  scale. The weights are differentiable in the logits; the bias has no gradient. `plan` sorts the
  choices.

  Args:
    logits_NE: of any float type.
    bias_E: float32; zeros where the router has none.
    rule: sizes and variant.
    implementation: None (by device), ref, xla or tpu.
  """
  rule.check(logits_NE.shape[1])
  return dispatch.call("routing", implementation, _FORMS, logits_NE, bias_E, rule)


def _forward(logits_NE, bias_E, rule, implementation):
  routing = route(logits_NE, bias_E, rule, implementation)
  return routing, (logits_NE, bias_E, routing.experts_NA)


def _backward(rule, implementation, saved, grad: Routing):
  logits_NE, bias_E, experts_NA = saved

  def weights(logits_NE: jax.Array) -> jax.Array:
    return ref.weigh(ref.affinities(logits_NE, rule), experts_NA, rule)

  (grad_NE,) = jax.vjp(weights, logits_NE)[1](grad.weights_NA)
  return grad_NE, jnp.zeros_like(bias_E)


route.defvjp(_forward, _backward)
