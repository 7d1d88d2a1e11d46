"""Parameter counts of published models to the last unit, and how parameters begin.

Nothing is allocated for the counts: shapes only.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepseek_jax.model.transformer import Transformer, init_weights
from deepseek_jax.presets import PRESETS, preset


@functools.cache
def shapes(name):
  return jax.eval_shape(
    functools.partial(init_weights, Transformer(preset(name))), jax.random.key(0)
  )


def size(tree) -> int:
  return sum(x.size for x in jax.tree.leaves(tree))


def counts(name) -> tuple[int, int]:
  """Parameters of the main model and of its MTP modules, router biases counted where selecting."""
  config, weights = preset(name), shapes(name)
  main = {k: v for k, v in weights.params.items() if not k.startswith("mtp_")}
  mtp = {k: v for k, v in weights.params.items() if k.startswith("mtp_")}
  biases = config.moe.experts if config.moe and config.moe.selection_bias else 0
  return size(main) + config.expert_layers * biases, size(mtp) + config.mtp_depth * biases


@pytest.mark.parametrize(
  ("name", "parameters"),
  [
    ("v3_671b", 671_026_419_200),
    ("v2_236b", 235_741_434_880),
    ("v2_lite_16b", 15_706_484_224),
    ("r1_distill_qwen_1_5b", 1_777_088_000),
    ("r1_distill_qwen_7b", 7_615_616_512),
    ("r1_distill_qwen_14b", 14_770_033_664),
    ("r1_distill_qwen_32b", 32_763_876_352),
    ("r1_distill_llama_8b", 8_030_261_248),
    ("r1_distill_llama_70b", 70_553_706_496),
    ("smollm2_135m", 134_515_008),
  ],
)
def test_published_counts(name, parameters):
  assert counts(name)[0] == parameters


def test_the_mtp_module_of_v3():
  assert counts("v3_671b")[1] == 11_610_068_224


def test_parts_of_v3():
  params = shapes("v3_671b").params
  assert size(params["moe"]["attention"]) == 58 * 187_107_328
  assert params["embed_VD"].size == params["head_DV"].size == 926_679_040
  assert size(params["moe"]["ffn"]) + 58 * 256 == 58 * 11_320_164_608
  assert shapes("v3_671b").router_bias_LE.shape == (59, 256)


def test_the_benchmark_shape_has_105_million_parameters():
  assert round(counts("v3_100m")[0] / 1e6, 1) == 105.5


@pytest.mark.parametrize("name", PRESETS)
def test_names_end_in_as_many_axis_letters_as_there_are_axes(name):
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes(name).params):
    keys = [k.key for k in path]
    stacked = keys[0] in ("dense", "moe")
    assert len(keys[-1].rpartition("_")[2]) + stacked == leaf.ndim, keys
    assert leaf.dtype == jnp.float32


@pytest.mark.parametrize("name", PRESETS)
def test_the_deviation_each_preset_begins_with(name):
  """DeepSeek's 0.006 for what it published; half the inverse root of the width for minis."""
  config = preset(name)
  if name in ("v3_671b", "r1_671b", "v2_236b", "v2_lite_16b"):
    assert config.std == 0.006
  elif name in ("v3_mini", "v3_100m"):
    assert config.std == pytest.approx(0.5 * config.d_model**-0.5)


@pytest.fixture(scope="module")
def drawn():
  """Initial weights of a mini wide enough to tell deviations, by deviation, drawn once."""

  @functools.cache
  def draw(std):
    config = dataclasses.replace(preset("v3_mini"), vocab=8200, d_model=128, init_std=std)
    draw = jax.jit(init_weights, static_argnums=0)
    return jax.device_get(draw(Transformer(config), jax.random.key(1)))

  return draw


@pytest.mark.parametrize(("init_std", "std"), [(0.006, 0.006), (None, 0.5 / 128**0.5)])
def test_matrices_are_normal_norms_one_and_biases_zero(init_std, std, drawn):
  weights = drawn(init_std)
  assert not np.any(weights.router_bias_LE)
  assert weights.params["embed_VD"].size > 2**20 > weights.params["norm_D"].size  # both ways
  for path, leaf in jax.tree_util.tree_leaves_with_path(weights.params):
    name = path[-1].key
    if "norm" in name:
      assert np.all(leaf == 1), name
    else:
      values = np.asarray(leaf).reshape(-1) / std
      tolerance = 4.5 / leaf.size**0.5
      assert abs(values.mean()) < tolerance, name
      assert abs(values.std() - 1) < tolerance, name
      assert abs(np.mean(np.abs(values) < 1) - 0.6827) < tolerance, name


def test_biases_of_a_student_begin_at_zero(mini):
  """Weights of the smallest kind that has them."""
  config = mini("dense").model.config
  weights = jax.jit(init_weights, static_argnums=0)(Transformer(config), jax.random.key(0))
  attention = jax.device_get(weights.params["dense"]["attention"])
  assert all(np.any(v) == ("bias" not in k) for k, v in attention.items())
  assert sum("bias" in k for k in attention) == 3


def test_every_matrix_and_layer_is_drawn_by_itself(drawn):
  """Layers of one scan, experts of one layer, and modules of equal shape differ."""
  params = drawn(None).params
  rows = [
    np.asarray(leaf).reshape(-1, leaf.shape[-1])[:, 0]
    for leaf in jax.tree.leaves(params)
    if np.std(leaf) > 0
  ]
  firsts = np.concatenate(rows)
  assert len(np.unique(firsts)) > 0.99 * len(firsts)  # float32 normals repeat now and then
  for leaf in jax.tree.leaves(params["moe"]):
    assert leaf.ndim < 3 or not np.array_equal(leaf[0], leaf[1])
