"""Small kernels for the tests of compilation without a device."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

SHAPE = jax.ShapeDtypeStruct((256, 256), jnp.float32)


def _tpu(x):
  def body(x_ref, out_ref):
    out_ref[...] = x_ref[...] + 1

  return pl.pallas_call(body, out_shape=SHAPE)(x)


def _hopper(x):
  from jax.experimental.pallas import mosaic_gpu as plgpu

  def body(x_gmem, out_gmem, smem, barrier):
    plgpu.copy_gmem_to_smem(x_gmem, smem, barrier)
    plgpu.barrier_wait(barrier)
    smem[...] = smem[...] * 2.0
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(smem, out_gmem)
    plgpu.wait_smem_to_gmem(0)

  return plgpu.kernel(
    body,
    out_type=jax.ShapeDtypeStruct((128, 128), jnp.float32),
    scratch_types=[plgpu.SMEM((128, 128), jnp.float32), plgpu.Barrier(num_barriers=1)],
    compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
  )(x[:128, :128])


def programs(chip):
  return {"add": (_hopper if chip == "h100" else _tpu, (SHAPE,))}
