"""Bytes of a model's weights and of its cache, from its configuration alone.

FP8 is what DeepSeek-V3 published: matrices of attention, feed-forward and experts take one byte per
element and a float32 scale per block of 128 x 128; embedding, head, norms, routers and the
projection at the head of an MTP module are bfloat16. Router biases are float32 in every format.
"""

import math
from collections.abc import Iterator

from deepseek_jax.config import MLAConfig, ModelConfig, require
from deepseek_jax.plan.flops import parameters

_BYTES = {"float32": 4, "bfloat16": 2}
DTYPES = (*_BYTES, "fp8")
_BLOCK = 128
_SCALE_BYTES = 4

Matrix = tuple[int, int, int]  # rows, columns, how many there are


def weight_bytes(config: ModelConfig, dtype: str = "float32", mtp: bool = True) -> int:
  """Bytes of all parameters and router biases in float32, bfloat16 or fp8.

  MTP modules count if `mtp`; what they share with the model counts once, where DeepSeek's files
  hold further copies of embedding and head.
  """
  require(dtype in DTYPES, f"dtype is {dtype!r}; use {', '.join(DTYPES)}.")
  rows = config.router_rows if mtp else config.expert_layers
  biases = rows * config.moe.experts if config.moe is not None else 0
  counted = config.moe is not None and config.moe.selection_bias
  elements = parameters(config, mtp) - (biases if counted else 0)
  bias_bytes = 4 * biases if counted else 0
  if dtype != "fp8":
    return elements * _BYTES[dtype] + bias_bytes
  matrices = list(_matrices(config, mtp))
  small = sum(m * n * count for m, n, count in matrices)
  scales = sum(math.ceil(m / _BLOCK) * math.ceil(n / _BLOCK) * count for m, n, count in matrices)
  return small + scales * _SCALE_BYTES + 2 * (elements - small) + bias_bytes


def cache_bytes(config: ModelConfig, tokens: int, batch: int = 1, dtype: str = "bfloat16") -> int:
  """Bytes of keys and values (MLA: of latents) of `tokens` past tokens in each of `batch` rows."""
  require(dtype in _BYTES, f"cache dtype is {dtype!r}; use {' or '.join(_BYTES)}.")
  attention = config.attention
  if isinstance(attention, MLAConfig):
    width = attention.kv_latent + attention.rope_dim
  else:
    width = 2 * attention.kv_heads * attention.head_dim
  return config.layers * width * tokens * batch * _BYTES[dtype]


def _matrices(config: ModelConfig, mtp: bool) -> Iterator[Matrix]:
  """The matrices that FP8 checkpoints hold in blocks, as they are cut there."""
  modules = config.mtp_depth if mtp else 0
  for rows, columns in _attention(config):
    yield rows, columns, config.layers + modules
  dense = config.dense_layers + (modules if config.moe is None else 0)
  yield from _feed_forward(config, config.dense_ff, dense)
  if config.moe is not None:
    layers = config.expert_layers + modules
    yield from _feed_forward(config, config.moe.expert_ff, layers * config.moe.experts)
    if config.moe.shared:
      yield from _feed_forward(config, config.moe.shared * config.moe.expert_ff, layers)


def _attention(config: ModelConfig) -> Iterator[tuple[int, int]]:
  """Rows and columns of one layer's projections."""
  attention, width, heads = config.attention, config.d_model, config.heads
  if not isinstance(attention, MLAConfig):
    yield heads * attention.head_dim, width
    yield from [(attention.kv_heads * attention.head_dim, width)] * 2
    yield width, heads * attention.head_dim
    return
  queries = heads * (attention.nope_dim + attention.rope_dim)
  if attention.q_latent is None:
    yield queries, width
  else:
    yield attention.q_latent, width
    yield queries, attention.q_latent
  yield attention.kv_latent + attention.rope_dim, width
  yield heads * (attention.nope_dim + attention.v_dim), attention.kv_latent
  yield width, heads * attention.v_dim


def _feed_forward(config: ModelConfig, ff: int, count: int) -> Iterator[Matrix]:
  """Gate, up and down projection of `count` feed-forwards."""
  yield ff, config.d_model, 2 * count
  yield config.d_model, ff, count


def memory_table(
  name: str, config: ModelConfig, tokens: int, batch: int = 1, cache_dtype: str = "bfloat16"
) -> str:
  """What a model takes at a request's length: weights in each format, cache, and their sum."""
  require(tokens > 0, f"the length is {tokens}; it must be positive.")
  require(batch > 0, f"the batch is {batch}; it must be positive.")
  per_token = cache_bytes(config, 1, dtype=cache_dtype)
  cache = cache_bytes(config, tokens, batch, cache_dtype)
  lines = [
    f"{name}: {config.layers} layers, context {config.max_context:,}",
    f"cache in {cache_dtype}, {batch:,} x {tokens:,} tokens, {per_token:,} B per token: "
    f"{readable(cache)}",
    f"{'weights in':<12}{'weights':>12}{'cache':>12}{'sum':>12}",
  ]
  for dtype in DTYPES:
    weights = weight_bytes(config, dtype)
    sizes = "".join(f"{readable(size):>12}" for size in (weights, cache, weights + cache))
    lines.append(f"{dtype:<12}{sizes}")
  return "\n".join(lines)


def readable(size: int) -> str:
  """A size in the decimal unit that makes it short: 1.41 GB."""
  for unit, scale in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
    if size >= scale:
      return f"{size / scale:.4g} {unit}"
  return f"{size} B"
