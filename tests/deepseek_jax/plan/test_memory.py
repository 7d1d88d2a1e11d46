"""Bytes from a configuration: those of real arrays, of checkpoint tensors, and as published."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.hub import names
from deepseek_jax.model.cache import init_cache
from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.plan.memory import cache_bytes, memory_table, readable, weight_bytes
from deepseek_jax.presets import PRESETS, preset

MINI = preset("v3_mini")
SMALL = {
  "v3_mini": MINI,
  "wide": dataclasses.replace(MINI, d_model=200, heads=5, layers=4, mtp_depth=2),
  "direct queries": dataclasses.replace(
    MINI, attention=dataclasses.replace(MINI.attention, q_latent=None), tied=True
  ),
  "no experts": dataclasses.replace(MINI, moe=None),
  "students": dataclasses.replace(preset("smollm2_135m"), vocab=300, layers=2),
  "biased": dataclasses.replace(preset("r1_distill_qwen_1_5b"), vocab=300, layers=2),
}


def abstract(config):
  return jax.eval_shape(lambda: init_weights(Transformer(config), jax.random.key(0)))


def nbytes(tree):
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", SMALL)
def test_float32_is_the_size_of_the_arrays(name):
  assert weight_bytes(SMALL[name]) == nbytes(abstract(SMALL[name]))


def fp8_bytes(config):
  """Of the checkpoint's tensors by their names: FP8 as DeepSeek published it, no copies."""
  shapes = {path: leaf.shape for path, leaf in names.flatten(abstract(config)).items()}
  total = 0
  for tensor in names.tensors(config):
    shape = tensor.shape(shapes)
    if tensor.copy:
      continue
    size = math.prod(shape)
    if "proj" in tensor.name and tensor.name.endswith("weight") and "eh_proj" not in tensor.name:
      total += size + 4 * math.ceil(shape[0] / 128) * math.ceil(shape[1] / 128)
    else:
      total += size * (4 if tensor.float32 else 2)
  return total


@pytest.mark.parametrize("name", SMALL)
def test_fp8_is_the_size_of_the_checkpoints_tensors(name):
  assert weight_bytes(SMALL[name], "fp8") == fp8_bytes(SMALL[name])


def test_mtp_modules_may_be_left_out():
  without = dataclasses.replace(MINI, mtp_depth=0)
  for dtype in ("float32", "bfloat16", "fp8"):
    assert weight_bytes(MINI, dtype, mtp=False) == weight_bytes(without, dtype)
    assert weight_bytes(MINI, dtype) > weight_bytes(without, dtype)


def test_published_sizes_of_v3():
  v3 = preset("v3_671b")
  biases = 58 * 256
  assert weight_bytes(v3, "bfloat16", mtp=False) == 2 * 671_026_419_200 + 2 * biases
  # DeepSeek's files take 688,586,727,753 bytes: the tensors, with the MTP module's copies of
  # embedding and head, and headers of some 130 bytes for each of 91 thousand tensors.
  copies = 2 * 2 * 129_280 * 7168
  headers = 688_586_727_753 - (weight_bytes(v3, "fp8") + copies)
  assert 100 < headers / 91_000 < 200


@pytest.mark.parametrize(
  ("name", "per_token"),
  [("v3_671b", 70_272), ("r1_671b", 70_272), ("v2_236b", 69_120), ("v2_lite_16b", 31_104)],
)
def test_published_cache_of_a_token(name, per_token):
  assert cache_bytes(preset(name), 1) == per_token


@pytest.mark.parametrize("name", ["v3_671b", "v2_lite_16b", "r1_distill_llama_8b", "v3_mini"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cache_is_the_size_of_the_engines(name, dtype):
  config = PRESETS[name]
  cache = jax.eval_shape(lambda: init_cache(config, 3, 40, jnp.dtype(dtype)))
  assert cache_bytes(config, 40, 3, dtype) == nbytes(cache.layers)


def test_the_table_says_both_and_their_sum():
  table = memory_table("v3", preset("v3_671b"), 163_840)
  assert "70,272 B per token: 11.51 GB" in table
  assert table.splitlines()[-1].split() == ["fp8", "684.9", "GB", "11.51", "GB", "696.4", "GB"]


def test_sizes_are_readable():
  assert [readable(n) for n in (999, 1000, 70_272, 11_513_364_480, 1_365 * 10**9)] == [
    "999 B", "1 kB", "70.27 kB", "11.51 GB", "1.365 TB"
  ]  # fmt: skip


def test_bad_requests_are_named():
  with pytest.raises(ConfigError, match="dtype is 'int4'"):
    weight_bytes(MINI, "int4")
  with pytest.raises(ConfigError, match="cache dtype is 'fp8'"):
    cache_bytes(MINI, 1, dtype="fp8")
  with pytest.raises(ConfigError, match="the length is 0"):
    memory_table("mini", MINI, 0)
