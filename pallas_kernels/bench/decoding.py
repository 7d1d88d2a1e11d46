"""The cases of routing and of attention while decoding."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.bench import work
from pallas_kernels.bench.cases import CHOSEN, Case, Operands, normals
from pallas_kernels.mla import api as mla
from pallas_kernels.mla import shapes as mla_shapes
from pallas_kernels.routing import api as routing
from pallas_kernels.routing import shapes as routing_shapes
from pallas_kernels.routing.rule import Rule


def routing_cases(small: bool) -> Iterator[Case]:
  """Routers; the bias is as small as that of a trained one."""
  for name, N, E, rule in routing_shapes.SMALL if small else routing_shapes.SHAPES:

    def make(key: jax.Array, sizes: tuple[int, int] = (N, E)) -> Operands:
      logits_key, bias_key = jax.random.split(key)
      bias_E = 0.01 * jax.random.normal(bias_key, sizes[1:])
      return {"own": (jax.random.normal(logits_key, sizes), bias_E)}

    def call(logits_NE, bias_E, *, implementation: str, rule: Rule = rule) -> Any:
      return routing.route(logits_NE, bias_E, rule, implementation)

    shape = f"{name}: {N} tokens, {E} experts, top {rule.top_k}"
    size = work.routing(N, E, rule.top_k)
    yield Case("routing", shape, call, make, size, CHOSEN, kinds=("tpu",))


def mla_cases(small: bool) -> Iterator[Case]:
  """Decoding with all slots in use."""
  latent, rope, scale = mla_shapes.LATENT, mla_shapes.ROPE, mla_shapes.SCALE
  call = functools.partial(mla.mla_decode, latent=latent, scale=scale)
  for name, B, H, S in mla_shapes.SMALL if small else mla_shapes.SHAPES:

    def make(key: jax.Array, sizes: tuple[int, int, int] = (B, H, S)) -> Operands:
      B, H, S = sizes
      shapes = (B, H, latent + rope), (B, S, latent + rope)
      (arrays,) = normals(key, shapes=shapes, dtype=jnp.bfloat16).values()
      return {"own": (*arrays, jnp.ones((B, S), jnp.bool_))}

    shape = f"{name}: {B} rows, {H} heads, {S} slots"
    yield Case("MLA decode", shape, call, make, work.decode(B, H, S, latent, rope))
