"""What the Hopper kernels of several families share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import compat, dispatch

_BYTES = 128  # of a row of swizzled shared memory, the widest there is


def require_mgpu() -> None:
  """Raises Unsupported where jax is too old for the Hopper kernels."""
  dispatch.require(compat.HAS_MGPU, "Hopper kernels need jax 0.11.2 or newer.")


def swizzled(dtype: Any, columns: int = 128) -> tuple[Any, ...]:
  """The layout of a tile in shared memory that TMA and wgmma share: rows of 128 bytes, swizzled.

  There are no bank conflicts along its rows and few along its columns.
  """
  itemsize = jnp.dtype(dtype).itemsize
  width = min(columns, _BYTES // itemsize)
  return plgpu.TilingTransform((8, width)), plgpu.SwizzleTransform(width * itemsize)


def persistent(kernel: Callable, out_type: Any, warpgroups: int, interpret: Any) -> Callable:
  """A kernel with one block of threads per multiprocessor, `warpgroups` and one that fetches.

  Raises:
    Unsupported: jax is too old.
  """
  require_mgpu()
  return plgpu.kernel(
    kernel,
    out_type=out_type,
    grid=(compat.multiprocessors(),),
    grid_names=("processor",),
    num_threads=warpgroups + 1,
    thread_name="warpgroup",
    compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
    interpret=interpret,
  )


def product(a: Any, b: Any) -> jax.Array:
  """The product of two tiles in shared memory, float32, read from the tensor core."""

  def multiply(sums):
    plgpu.wgmma(sums, a, b)
    return sums[...]  # waits

  return pl.run_scoped(multiply, plgpu.ACC((a.shape[0], b.shape[1]), jnp.float32))


def fence_reads() -> None:
  """Orders this warpgroup's reads of shared memory before the TMA write that recycles it."""
  plgpu.commit_smem()


def publish() -> None:
  """Shows TMA what this warpgroup has written to shared memory."""
  plgpu.commit_smem()


def await_stores() -> None:
  """Waits until TMA has read what this warpgroup stored, so that it may be overwritten."""
  plgpu.wait_smem_to_gmem(0, wait_read_only=True)
