"""Dense matmuls of FP8 operands with their scales, forward and backward (2412.19437, 3.3)."""

from pallas_kernels.gemm.api import linear, matmul
from pallas_kernels.gemm.recipe import Recipe

__all__ = ["Recipe", "linear", "matmul"]
