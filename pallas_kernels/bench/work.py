"""What an operation must compute and move at least: the numerators of TFLOP/s and GB/s.

Operations are those of the shape as a model has it, not of its filling up to multiples of 128.
Bytes are each operand read once and each result written once, scales of 4 bytes included, so that
GB/s is a lower bound of the traffic.
"""

import dataclasses

from pallas_kernels.fp8.formats import TILE

_SCALE = 4  # bytes


@dataclasses.dataclass(frozen=True)
class Work:
  """What one call does.

  Attributes:
    flops: floating-point operations of its matmuls, 0 where it has none.
    bytes: least traffic to and from the device's memory.
    precision: fp8 or bf16, whose peak its matmuls are held against.
  """

  flops: int
  bytes: int
  precision: str = "fp8"


def quantize(
  rows: int, columns: int, *, inputs: int = 1, in_bytes: int = 2, copies: int = 1
) -> Work:
  """1x128 or 128x1 tiles of `inputs` matrices, `copies` of them written (rows, columns or both)."""
  size = rows * columns
  return Work(0, inputs * size * in_bytes + copies * (size + _SCALE * (size // TILE)))


def quantize_blocks(rows: int, columns: int, *, in_bytes: int = 4) -> Work:
  """128x128 blocks."""
  size = rows * columns
  return Work(0, size * (in_bytes + 1) + _SCALE * _tiles(rows) * _tiles(columns))


def product(M: int, N: int, K: int, *, out_bytes: int = 2) -> Work:
  """x [M, K] in 1x128 tiles times the transpose of w [N, K] in blocks."""
  scales = _SCALE * _tiles(K) * (M + _tiles(N))
  return Work(2 * M * N * K, M * K + N * K + scales + out_bytes * M * N)


def weight_gradient(M: int, N: int, K: int) -> Work:
  """dy^T x over M tokens, both operands in tiles of 128 tokens; float32 [N, K]."""
  return Work(2 * M * N * K, (M + _SCALE * _tiles(M)) * (N + K) + 4 * N * K)


def m_grouped(R: int, G: int, N: int, K: int) -> Work:
  """R rows in 1x128 tiles, each times the matrix [N, K] of one of G groups; bfloat16."""
  scales = _SCALE * _tiles(K) * (R + G * _tiles(N))
  return Work(2 * R * N * K, R * K + G * N * K + scales + 2 * R * N)


def k_grouped(R: int, G: int, N: int, K: int) -> Work:
  """The weight gradients [G, N, K] in float32 over R rows."""
  return Work(2 * R * N * K, (R + _SCALE * _tiles(R)) * (N + K) + 4 * G * N * K)


def bfloat16(flops: int, operands: int, results: int, *, out_bytes: int = 2) -> Work:
  """A matmul of bfloat16 operands; both counts are of elements."""
  return Work(flops, 2 * operands + out_bytes * results, "bf16")


def routing(N: int, E: int, top_k: int) -> Work:
  """Float32 logits [N, E] and bias; experts, weights, ranks [N, A] and counts, 4 bytes each."""
  return Work(0, 4 * (N * E + E + 3 * N * top_k + E))


def decode(B: int, H: int, S: int, latent: int, rope: int) -> Work:
  """Scores over latent and rotary key, mixtures of latents; bfloat16, and a byte of each slot."""
  X = latent + rope
  traffic = 2 * (B * S * X + B * H * X + B * H * latent) + B * S
  return Work(2 * B * H * S * (X + latent), traffic, "bf16")


def _tiles(size: int) -> int:
  return -(-size // TILE)
