"""Kernels of DeepSeek-V3 for TPUs and Hopper GPUs, each with a plain reference beside it.

One folder per family. Its `api` takes `implementation=None | "ref" | "xla" | "tpu" | "mgpu"`:
`ref` is the formula in plain jnp, `xla` what XLA makes fastest of it, `tpu` a Mosaic TPU kernel and
`mgpu` a Mosaic GPU kernel for Hopper; `dispatch` chooses. What families share stands in `fp8`,
`hopper`, `compat` and `gemm.recipe`, what their tests share in `testing`. This package imports jax
and nothing of deepseek_jax.
"""
