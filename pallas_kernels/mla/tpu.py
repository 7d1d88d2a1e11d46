"""Absorbed attention for TPUs: flash decoding over the latent cache in one Mosaic kernel.

A step takes one row with all of its heads and one block of its slots, latent and rotary key
together: the cache is read once. Blocks before a row's first and after its last valid slot are
neither read nor computed.

Slots lie along the lanes: XLA itself stores an array [B, S, 576] so, as 576 would be padded to 640
lanes. To ask for the other order would copy the cache at every step.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from pallas_kernels import configs
from pallas_kernels.configs import questions
from pallas_kernels.dispatch import require
from pallas_kernels.mla.slots import MASKED, block_bounds

BLOCK = 512  # slots of a step


@dataclasses.dataclass(frozen=True)
class Tiles:
  """How the cache is cut: `block` slots are a step."""

  block: int = BLOCK

  def __post_init__(self) -> None:
    configs.check_fields(self, block=128)


def decode(
  q_BHX: jax.Array,
  kv_BSX: jax.Array,
  valid_BS: jax.Array,
  *,
  latent: int,
  scale: float,
  block: int | None = None,
  interpret: Any = False,
) -> jax.Array:
  """Attends over the valid slots; see `api.mla_decode`.

  `block` of them are a step; None takes the device's choice.
  """
  B, H, X = q_BHX.shape
  S = kv_BSX.shape[1]
  whole = not (latent % 128 or X % 16)
  require(whole, f"entries of {latent} + {X - latent} do not fill registers")
  if block is None:
    block = questions.decode(Tiles(), B, H, S, X).block
  block = min(block, S)
  blocks = pl.cdiv(S, block)
  valid_BS = jnp.pad(valid_BS.astype(jnp.int32), ((0, 0), (0, blocks * block - S)))
  valid_BNS = valid_BS.reshape(B, blocks, block)
  first_B1, end_B1, _ = block_bounds(valid_BNS, 1)

  def kv_index(b: jax.Array, i: jax.Array, first_B, end_B) -> tuple:
    return b, 0, jnp.clip(first_B[b] + i, 0, jnp.maximum(end_B[b] - 1, 0))

  def valid_index(b: jax.Array, i: jax.Array, first_B, end_B) -> tuple:
    return b, kv_index(b, i, first_B, end_B)[2], 0, 0

  grid_spec = pltpu.PrefetchScalarGridSpec(
    num_scalar_prefetch=2,
    grid=(B, blocks),
    in_specs=[
      pl.BlockSpec((1, H, X), lambda b, *_: (b, 0, 0)),
      pl.BlockSpec((1, X, block), kv_index),
      pl.BlockSpec((1, 1, 1, block), valid_index),
    ],
    out_specs=pl.BlockSpec((1, H, latent), lambda b, *_: (b, 0, 0)),
    scratch_shapes=[
      pltpu.VMEM((H, latent), jnp.float32),
      pltpu.VMEM((H, 1), jnp.float32),
      pltpu.VMEM((H, 1), jnp.float32),
    ],
  )
  return pl.pallas_call(
    functools.partial(_kernel, latent=latent, scale=scale),
    grid_spec=grid_spec,
    out_shape=jax.ShapeDtypeStruct((B, H, latent), q_BHX.dtype),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    cost_estimate=pl.CostEstimate(
      flops=2 * B * H * S * (X + latent),
      bytes_accessed=B * S * X * kv_BSX.dtype.itemsize + 2 * B * H * X * q_BHX.dtype.itemsize,
      transcendentals=B * H * S,
    ),
    interpret=interpret,
    name="mla_decode",
  )(
    first_B1[:, 0],
    end_B1[:, 0],
    q_BHX.astype(kv_BSX.dtype),
    kv_BSX.swapaxes(1, 2),
    valid_BNS[:, :, None],
  )


def _kernel(
  first_B, end_B, q_ref, kv_ref, valid_ref, out_ref, sums_ref, total_ref, top_ref, *, latent, scale
):
  """One row's block of slots; the sums, their weights' totals and the maxima stay in VMEM."""
  b, i = pl.program_id(0), pl.program_id(1)

  pl.when(i == 0)(lambda: _begin(sums_ref, total_ref, top_ref))

  @pl.when(first_B[b] + i < end_B[b])
  def _():
    valid_1S = valid_ref[0, 0] != 0
    kv_XS = _clean(kv_ref[0], valid_1S)
    scores_HS = jnp.dot(q_ref[0], kv_XS, preferred_element_type=jnp.float32) * scale
    weights_HS, fade_H1 = _weigh(scores_HS, valid_1S, total_ref, top_ref)
    sums_ref[...] = sums_ref[...] * fade_H1 + _mix(weights_HS, kv_XS[:latent])

  @pl.when(i == pl.num_programs(1) - 1)
  def _():
    total_H1 = total_ref[...]
    share_H1 = jnp.where(total_H1 > 0, 1 / total_H1, 0.0)
    out_ref[0] = (sums_ref[...] * share_H1).astype(out_ref.dtype)


def _begin(sums_ref, total_ref, top_ref) -> None:
  """The sums of no slots."""
  sums_ref[...] = jnp.zeros_like(sums_ref)
  total_ref[...] = jnp.zeros_like(total_ref)
  top_ref[...] = jnp.full_like(top_ref, MASKED)


def _weigh(scores_HS: jax.Array, valid_1S: jax.Array, total_ref, top_ref):
  """The block's weights [H, S], and what earlier sums are multiplied by [H, 1]."""
  scores_HS = jnp.where(valid_1S, scores_HS, MASKED)
  top_H1 = jnp.maximum(top_ref[...], scores_HS.max(axis=1, keepdims=True))
  weights_HS = jnp.where(valid_1S, jnp.exp(scores_HS - top_H1), 0.0)
  fade_H1 = jnp.exp(top_ref[...] - top_H1)
  total_ref[...] = total_ref[...] * fade_H1 + weights_HS.sum(axis=1, keepdims=True)
  top_ref[...] = top_H1
  return weights_HS, fade_H1


def _mix(weights_HS: jax.Array, kv_CS: jax.Array) -> jax.Array:
  """The latents by each head's weights, float32 [H, C]."""
  contract_s = (((1,), (1,)), ((), ()))
  weights_HS = weights_HS.astype(kv_CS.dtype)
  return lax.dot_general(weights_HS, kv_CS, contract_s, preferred_element_type=jnp.float32)


def _clean(kv_XS: jax.Array, valid_1S: jax.Array) -> jax.Array:
  """Zeros in the slots that are not valid: a weight of zero does not make NaN harmless."""
  return jnp.where(valid_1S, kv_XS.astype(jnp.float32), 0.0).astype(kv_XS.dtype)
