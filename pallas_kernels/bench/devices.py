"""What devices can do at best, by their makers, and how fast this one copies."""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels.bench.timing import Timer


@dataclasses.dataclass(frozen=True)
class Peaks:
  """Dense matmuls and memory at best.

  Attributes:
    fp8: TFLOP/s; the bfloat16 rate on TPUs whose matrix unit multiplies FP8 no faster.
    bf16: TFLOP/s.
    memory: GB/s.
  """

  fp8: float
  bf16: float
  memory: float


PEAKS = {
  "h100": Peaks(1979, 989, 3350),  # SXM
  "h200": Peaks(1979, 989, 4800),
  "v5e": Peaks(197, 197, 819),
  "v5p": Peaks(459, 459, 2765),
  "v6e": Peaks(918, 918, 1640),
}


def copy_rate(timer: Timer, copied: int) -> float:
  """GB/s read and written while an array of so many bytes is inverted."""
  x = jax.random.bits(jax.random.key(0), (copied // 4,), jnp.uint32)
  invert = jax.jit(jnp.bitwise_not)
  return 2 * x.nbytes / timer({"copy": lambda: invert(x)})["copy"] / 1e9
