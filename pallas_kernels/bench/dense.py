"""The cases of the quantisers and of the dense products."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from pallas_kernels.bench import work
from pallas_kernels.bench.cases import QUANTIZED, ROUNDED, Case, Form, Operands, normals
from pallas_kernels.fp8 import api as fp8
from pallas_kernels.fp8 import ref as quantizers
from pallas_kernels.fp8 import shapes as fp8_shapes
from pallas_kernels.fp8.formats import TILE
from pallas_kernels.gemm import api as gemm
from pallas_kernels.gemm import shapes as gemm_shapes

_NT = (((1,), (1,)), ((), ()))  # both operands have the contraction last


def fp8_cases(small: bool) -> Iterator[Case]:
  """The quantisers; activations come in bfloat16, weights in float32."""
  pick = functools.partial(_pick, small, fp8_shapes.SMALL)
  for name, M, K in pick(fp8_shapes.ACTIVATIONS):
    make = functools.partial(normals, shapes=((M, K),), dtype=jnp.bfloat16)
    once, twice = work.quantize(M, K), work.quantize(M, K, copies=2)
    yield _quantizer(fp8.quantize_rows, name, make, once)
    yield _quantizer(fp8.quantize_columns, name, make, once)
    yield _quantizer(fp8.quantize_both, name, make, twice)
  for name, M, F in pick(fp8_shapes.HIDDEN):
    make = functools.partial(normals, shapes=((M, F), (M, F)), dtype=jnp.bfloat16)
    yield _quantizer(fp8.swiglu_quantize, name, make, work.quantize(M, F, inputs=2))
  for name, N, K in pick(fp8_shapes.WEIGHTS):
    make = functools.partial(normals, shapes=((N, K),), dtype=jnp.float32)
    yield _quantizer(fp8.quantize_blocks, name, make, work.quantize_blocks(N, K))


def gemm_cases(small: bool) -> Iterator[Case]:
  """Dense products of each weight: forward for all numbers of tokens, gradients for the most."""
  weights = gemm_shapes.SMALL if small else gemm_shapes.WEIGHTS
  tokens = gemm_shapes.SMALL_TOKENS if small else gemm_shapes.TOKENS
  shapes = [(name, M, N, K) for name, (N, K) in weights.items() for M in tokens]
  known = {shape[1:] for shape in shapes}
  if not small:
    shapes += [("published", *shape) for shape in gemm_shapes.PUBLISHED if shape not in known]
  for name, M, N, K in shapes:
    yield _forward(name, M, N, K)
  for name, M, N, K in shapes:
    if max(tokens) == M:
      yield _input_gradient(name, M, N, K)
      yield _weight_gradient(name, M, N, K)


def _pick(small: bool, few: tuple, all_of_them: tuple) -> tuple:
  return few if small else all_of_them


def _quantizer(call: Callable, name: str, make: Callable, size: work.Work) -> Case:
  ((*_, array), *_) = jax.eval_shape(make, jax.random.key(0)).values()
  shape = f"{name}: {array.shape[0]} x {array.shape[1]}"
  return Case(call.__name__, shape, call, make, size, QUANTIZED)


def _forward(name: str, M: int, N: int, K: int) -> Case:
  def make(key: jax.Array) -> Operands:
    x, w = _pair(key, (M, K), (N, K))
    quantized = quantizers.quantize_rows(x), quantizers.quantize_blocks(w)
    return _with_bf16(*quantized, quantizers.dequantize_blocks)

  dot = work.bfloat16(2 * M * N * K, M * K + N * K, M * N)
  other = Form("bfloat16 dot", _dot, dot, ROUNDED, "bf16")
  return Case(
    "forward", f"{name}: {M} x {N} x {K}", gemm.matmul, make, work.product(M, N, K), others=(other,)
  )


def _input_gradient(name: str, M: int, N: int, K: int) -> Case:
  """With the transposed copy of the weight's values that a layer's backward pass makes."""

  def make(key: jax.Array) -> Operands:
    dy, w = _pair(key, (M, N), (N, K))
    quantized = quantizers.quantize_rows(dy), quantizers.quantize_blocks(w)
    return _with_bf16(*quantized, quantizers.dequantize_blocks)

  def call(dy_MN, dy_scale, w_NK, w_scale, *, implementation: str) -> jax.Array:
    return gemm.matmul(dy_MN, dy_scale, w_NK.T, w_scale.T, implementation=implementation)

  dot = work.bfloat16(2 * M * N * K, M * N + N * K, M * K)
  other = Form("bfloat16 dot", lambda dy, w: jnp.dot(dy, w), dot, ROUNDED, "bf16")
  return Case(
    "input gradient", f"{name}: {M} x {N} x {K}", call, make, work.product(M, K, N), others=(other,)
  )


def _weight_gradient(name: str, M: int, N: int, K: int) -> Case:
  def make(key: jax.Array) -> Operands:
    dy, x = _pair(key, (M, N), (M, K))
    columns = quantizers.quantize_columns(dy), quantizers.quantize_columns(x)
    return _with_bf16(*columns, quantizers.dequantize_rows)

  call = functools.partial(gemm.matmul, out_dtype=jnp.float32)
  dot = work.bfloat16(2 * M * N * K, M * N + M * K, N * K, out_bytes=4)
  run = functools.partial(_dot, dtype=jnp.float32)
  other = Form("bfloat16 dot", run, dot, ROUNDED, "bf16")
  return Case(
    "weight gradient",
    f"{name}: {M} x {N} x {K}",
    call,
    make,
    work.weight_gradient(M, N, K),
    others=(other,),
  )


def _pair(key: jax.Array, *shapes: tuple[int, int]) -> list[jax.Array]:
  """Random matrices with zeros up to multiples of 128, as `gemm.linear` fills them up."""
  keys = jax.random.split(key, len(shapes))
  matrices = [jax.random.normal(k, shape) for k, shape in zip(keys, shapes)]
  return [jnp.pad(x, [(0, -size % TILE) for size in x.shape]) for x in matrices]


def _with_bf16(x: fp8.Quantized, w: fp8.Quantized, dequantize: Callable) -> Operands:
  """Quantised operands, and what they stand for in bfloat16."""
  pair = quantizers.dequantize_rows(*x), dequantize(*w)
  return {"own": (*x, *w), "bf16": tuple(a.astype(jnp.bfloat16) for a in pair)}


def _dot(x_MK: jax.Array, w_NK: jax.Array, dtype=jnp.bfloat16) -> jax.Array:
  return jax.lax.dot_general(x_MK, w_NK, _NT, preferred_element_type=dtype)
