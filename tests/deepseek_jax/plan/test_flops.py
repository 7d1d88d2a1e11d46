"""Operations counted from shapes are those counted by hand."""

import pytest

from deepseek_jax.plan.flops import PARTS, flops_by_part, forward_flops, parameters, train_flops
from deepseek_jax.presets import preset

V3_ATTENTION = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
BY_HAND = {  # multiply-adds of a token that sees 2,048
  "v3_671b": {
    "attention projections": 61 * V3_ATTENTION,
    "attention core": 61 * 128 * (192 + 128) * 2048,
    "dense feed-forward": 3 * 3 * 7168 * 18_432,
    "routed experts": 58 * 8 * 3 * 7168 * 2048,
    "shared experts": 58 * 3 * 7168 * 2048,
    "router": 58 * 7168 * 256,
    "head": 7168 * 129_280,
  },
  "v2_lite_16b": {
    "attention projections": 27 * (2048 * 16 * 192 + 2048 * 576 + 512 * 16 * 256 + 16 * 128 * 2048),
    "attention core": 27 * 16 * (192 + 128) * 2048,
    "dense feed-forward": 3 * 2048 * 10_944,
    "routed experts": 26 * 6 * 3 * 2048 * 1408,
    "shared experts": 26 * 2 * 3 * 2048 * 1408,
    "router": 26 * 2048 * 64,
    "head": 2048 * 102_400,
  },
  "r1_distill_qwen_7b": {
    "attention projections": 28 * (2 * 3584 * 28 * 128 + 2 * 3584 * 4 * 128),
    "attention core": 28 * 28 * 2 * 128 * 2048,
    "dense feed-forward": 28 * 3 * 3584 * 18_944,
    "head": 3584 * 152_064,
  },
}


@pytest.mark.parametrize("name", BY_HAND)
def test_parts_are_those_counted_by_hand(name):
  found = flops_by_part(preset(name), 2048)
  for part, count in BY_HAND[name].items():
    # Biases of queries, keys and values are counted, too.
    assert found.pop(part) == pytest.approx(2 * count, rel=1e-3), part
  assert set(found) == {"norms"}
  whole = sum(BY_HAND[name].values())
  assert forward_flops(preset(name), 2048) == pytest.approx(2 * whole, rel=1e-3)
  assert train_flops(preset(name), 2048) == pytest.approx(6 * whole, rel=1e-3)


def test_a_token_of_v3_is_trained_with_what_is_published():
  """250 GFLOP (2505.09343, table 2): causal, without the MTP module."""
  assert train_flops(preset("v3_671b"), 2048) / 1e9 == pytest.approx(250, rel=0.01)


def test_mtp_adds_a_block_its_joint_and_a_pass_through_the_head():
  v3 = preset("v3_671b")
  block = V3_ATTENTION + 9 * 3 * 7168 * 2048 + 7168 * 256
  added = 2 * (block + 2 * 7168 * 7168 + 7168 * 129_280 + 128 * 320 * 2048)
  with_mtp = flops_by_part(v3, 2048, mtp=True)
  assert with_mtp["MTP"] == pytest.approx(added, rel=1e-3)
  assert [part for part in PARTS if part in with_mtp] == list(with_mtp)


def test_absorbed_attention_reads_latents():
  v3 = preset("v3_671b")
  cores = [flops_by_part(v3, 100, absorbed=x)["attention core"] for x in (True, False)]
  assert cores == [2 * 61 * 128 * (2 * 512 + 64) * 100, 2 * 61 * 128 * 320 * 100]


def test_a_tied_head_is_multiplied_with_too():
  tied = preset("smollm2_135m")
  assert flops_by_part(tied, 1)["head"] == 2 * 49_152 * 576
  assert parameters(tied) == pytest.approx(134.5e6, rel=1e-3)
