"""How linear layers multiply: to what they round operands, and whether kernels do it.

Without kernels every product is one of float32 after rounding, so that a precision's numerics can
be studied on any device. By name:

  plain                as they are, in `compute.dtype`
  bfloat16             rounded to bfloat16
  fp8                  E4M3 as V3 trained (2412.19437, section 3.3): activations and gradients in
                       1x128 tiles along the contraction, weights in 128x128 blocks
  fp8_gradient_blocks  the same, but in the product that makes an input's gradient, the output's
                       in 128x128 blocks, with which DeepSeek's 16B model diverged (appendix B.2)

FP8 products promote to float32 every 128 of the contraction; float32 throughout stands for that.
Not rounded: embedding, head, router, norms, the attention core, up-projections absorbed in
decoding, and the joint of an MTP module, which the released checkpoint has in bfloat16 too.

What the backward pass needs is kept in E4M3 and restored there: the inputs of products, regrouped
from 1x128 to 128x1 tiles for the weight's gradient, and the inputs of SwiGLU, from which its output
is made again. The input of the product after attention is kept with six bits of mantissa, as in
V3's E5M6, but in the 16 bits of bfloat16, and so with more exponents.

With kernels (`compute.kernels`) the two FP8 precisions are computed by `pallas_kernels` on E4M3
operands: the same function, up to the order of sums. Routing, experts in bfloat16 and absorbed
attention have kernels at any precision.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deepseek_jax.config import ComputeConfig, require
from deepseek_jax.ops.low_rank import LowRank
from deepseek_jax.ops.tiles import BLOCKS, COLUMNS, ROWS, quantize, rounded
from pallas_kernels import dispatch
from pallas_kernels.gemm.recipe import Quantizer, Recipe

Round = Callable[[Any], Any]  # an array of any leading axes, to float32


def _same(x: Any) -> Any:
  return x


class Rounding(NamedTuple):
  """What is done to each operand of the products y = x w, dx = dy w', dw = x' dy."""

  rows: Round = _same  # x in y
  weights: Round = _same  # w in y and dx
  gradient_rows: Round = _same  # dy in dx
  columns: Round = _same  # x in dw
  gradient_columns: Round = _same  # dy in dw
  keep: Round = _same  # what stays of an activation until the backward pass
  kept: Round = _same  # its float32 there; of what stays of x, also `rows(x)`
  keep_attended: Round = _same  # `keep` for what attention puts out


def _bits(x: jax.Array, mantissa: int) -> jax.Array:
  """Float32 with a shorter mantissa; ties to even."""
  return jax.lax.reduce_precision(x.astype(jnp.float32), exponent_bits=8, mantissa_bits=mantissa)


def _six_bits(x: jax.Array) -> jax.Array:
  return _bits(x, 6).astype(jnp.bfloat16)  # which holds them


def _bfloat16(x: jax.Array) -> jax.Array:
  return _bits(x, 7)


def _keep_bfloat16(x: jax.Array) -> jax.Array:
  return _bits(x, 7).astype(jnp.bfloat16)


def _float32(x: jax.Array) -> jax.Array:
  return x.astype(jnp.float32)


def _restore(kept: Any) -> jax.Array:
  return _float32(kept) if isinstance(kept, jax.Array) else kept.restore()


_rows, _columns, _blocks = (functools.partial(rounded, tile=t) for t in (ROWS, COLUMNS, BLOCKS))
_FP8 = Rounding(
  rows=_rows,
  weights=_blocks,
  gradient_rows=_rows,
  columns=_columns,
  gradient_columns=_columns,
  keep=functools.partial(quantize, tile=ROWS),
  kept=_restore,
  keep_attended=_six_bits,
)
ROUNDINGS = {
  "plain": Rounding(),
  "bfloat16": Rounding(
    rows=_bfloat16,
    weights=_bfloat16,
    gradient_rows=_bfloat16,
    columns=_bfloat16,
    gradient_columns=_bfloat16,
    keep=_keep_bfloat16,
    kept=_float32,
    keep_attended=_keep_bfloat16,
  ),
  "fp8": _FP8,
  "fp8_gradient_blocks": _FP8._replace(gradient_rows=_blocks),
}


@dataclasses.dataclass(frozen=True)
class Precision:
  """What the ops that multiply are told, one thing for all layers of a model.

  Attributes:
    name: of the table above.
    kernels: off, auto (pallas_kernels chooses by the device), or the form of all its operations:
      ref, xla, tpu or mgpu.
  """

  name: str = "plain"
  kernels: str = "off"

  @property
  def rounding(self) -> Rounding:
    return ROUNDINGS[self.name]

  @property
  def plain(self) -> bool:
    return self.name == "plain"

  @property
  def fp8(self) -> bool:
    """Whether operands are E4M3."""
    return self.name in ("fp8", "fp8_gradient_blocks")

  @property
  def implementation(self) -> str | None:
    """What operations of pallas_kernels are called with; XLA's forms where kernels are off."""
    return {"auto": None, "off": "xla"}.get(self.kernels, self.kernels)

  @property
  def quantizer(self) -> Quantizer:
    """How kernels quantise the operands of FP8 products."""
    blocks = self.name == "fp8_gradient_blocks"
    return Quantizer(Recipe(gradient_blocks=blocks), self.implementation)

  @property
  def by_kernels(self) -> bool:
    """Whether linear layers are computed by kernels."""
    return self.kernels != "off" and self.fp8

  def operand(self, w: Any, dtype: Any) -> Any:
    """A weight as products take it: float32 to be quantised by kernels, else in `dtype`."""
    if isinstance(w, LowRank):
      return dataclasses.replace(w.astype(dtype), base=self.operand(w.base, dtype))
    return w if self.by_kernels and isinstance(w, jax.Array) else w.astype(dtype)


PLAIN = Precision()


def precision_of(compute: ComputeConfig, mesh: jax.sharding.Mesh | None) -> Precision:
  """The precision of a model's layers.

  Over several devices XLA cuts products itself, which it cannot with kernels: there "auto" is off.

  Raises:
    ConfigError: named kernels and a mesh of several devices.
  """
  kernels, devices = compute.kernels, 1 if mesh is None else mesh.size
  if kernels == "auto" and (devices > 1 or dispatch.device_kernel() == "xla"):
    kernels = "off"
  require(
    kernels == "off" or devices == 1,
    f"compute.kernels is {kernels!r} on a mesh of {devices} devices; kernels run on one: use off.",
  )
  return Precision(compute.precision, kernels)
