"""What promotion buys: the product on an accumulator of few bits, simulated in numpy.

Hopper's tensor core adds the products of 32 elements of K at a time. It aligns them and what it has
so far to the largest exponent among them and keeps the bits above 2^-13 of it, 14 in all; the sum
stays in a register of 13 fraction bits (2412.19437, 3.3.2; 2505.09343, 3.1). This is that model,
not a measurement of a device; promotion adds the register to a float32 total and clears it.
"""

import numpy as np

from pallas_kernels.fp8.formats import E4M3, E4M3_MAX

INSTRUCTION = 32  # elements of K that the tensor core adds at a time


def product(
  x_MK: np.ndarray, w_NK: np.ndarray, *, promote_every: int | None = 128, bits: int = 14
) -> np.ndarray:
  """x . w^T in float32 by way of an accumulator that keeps `bits` bits.

  Args:
    x_MK: E4M3 values in any float dtype; products of two of them are exact in float64.
    promote_every: elements of K between promotions, a multiple of 32; None never promotes.
  """
  x_MK, w_NK = np.asarray(x_MK, np.float64), np.asarray(w_NK, np.float64)
  shape = (len(x_MK), len(w_NK))
  total_MN, sum_MN = np.zeros(shape, np.float32), np.zeros(shape)
  for start in range(0, x_MK.shape[1], INSTRUCTION):
    part = slice(start, start + INSTRUCTION)
    terms_MNI = x_MK[:, None, part] * w_NK[None, :, part]
    sum_MN = _aligned_sum(np.concatenate([sum_MN[..., None], terms_MNI], axis=-1), bits)
    if promote_every and (start + INSTRUCTION) % promote_every == 0:
      total_MN, sum_MN = total_MN + sum_MN.astype(np.float32), np.zeros(shape)
  return total_MN + sum_MN.astype(np.float32)


def errors(
  depths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384), size: int = 64, seed: int = 0
) -> list[dict[str, float]]:
  """Errors of random products of depth K with and without promotion, largest over largest."""
  rows = []
  for K in depths:
    rng = np.random.default_rng((seed, K))
    x_MK, w_NK = (_e4m3(rng.normal(size=(size, K))) for _ in range(2))
    exact_MN = x_MK @ w_NK.T
    row: dict[str, float] = {"K": K}
    for name, every in (("promoted", 128), ("not_promoted", None)):
      error_MN = np.abs(product(x_MK, w_NK, promote_every=every) - exact_MN)
      row[name] = float(error_MN.max() / np.abs(exact_MN).max())
    rows.append(row)
  return rows


def _aligned_sum(terms: np.ndarray, bits: int) -> np.ndarray:
  """The sum over the last axis of what is left of each term next to the largest exponent."""
  _, exponent = np.frexp(np.abs(terms).max(axis=-1))
  kept = _truncated(terms, exponent[..., None] - bits).sum(axis=-1)
  _, exponent = np.frexp(kept)
  return _truncated(kept, exponent - bits)


def _truncated(x: np.ndarray, exponent: np.ndarray) -> np.ndarray:
  """Towards zero, to multiples of 2^exponent."""
  return np.ldexp(np.trunc(np.ldexp(x, -exponent)), exponent)


def _e4m3(x: np.ndarray) -> np.ndarray:
  """Values as a quantiser leaves them, each row scaled to E4M3's largest, in float64."""
  return (x * E4M3_MAX / np.abs(x).max(axis=1, keepdims=True)).astype(E4M3).astype(np.float64)
