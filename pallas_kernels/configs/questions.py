"""What kernels ask for: which axes of an operation vary from call to call, and which are a model's.

Each gives the device's tiles, or `default`.
"""

from pallas_kernels.configs import Tiles, tiles


def product(default: Tiles, M: int, N: int, K: int, *, by_blocks: bool) -> Tiles:
  """Of gemm.matmul. Tokens are M where w has blocks, K where it has not: the weight gradient."""
  if by_blocks:
    return tiles("gemm.matmul", default, up_to={"M": M}, exact={"N": N, "K": K})
  return tiles("gemm.weight_gradient", default, up_to={"K": K}, exact={"M": M, "N": N})


def m_grouped(default: Tiles, M: int, G: int, N: int, K: int) -> Tiles:
  """Of M padded rows and G groups."""
  return tiles("grouped.m_grouped", default, up_to={"M": M}, exact={"G": G, "N": N, "K": K})


def k_grouped(default: Tiles, M: int, G: int, N: int, K: int) -> Tiles:
  """Of M padded rows and G groups."""
  return tiles("grouped.k_grouped", default, up_to={"M": M}, exact={"G": G, "N": N, "K": K})


def decode(default: Tiles, B: int, H: int, S: int, X: int) -> Tiles:
  """Of B rows, H heads and S slots, X wide."""
  return tiles("mla.decode", default, up_to={"B": B, "S": S}, exact={"H": H, "X": X})
