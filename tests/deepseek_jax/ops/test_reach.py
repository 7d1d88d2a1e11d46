"""Devices per token, beside counting every choice there is and drawing at random."""

import itertools

import numpy as np
import pytest

from deepseek_jax.config import MoEConfig
from deepseek_jax.ops.reach import devices_per_token, experts_touched
from deepseek_jax.presets import preset


def of_all_choices(moe, devices):
  """The mean over every set of groups and of experts within them."""
  size, held = moe.experts // moe.groups, moe.experts // devices
  counts = [
    len({expert // held for expert in chosen})
    for groups in itertools.combinations(range(moe.groups), moe.top_groups)
    for chosen in itertools.combinations(
      [z * size + i for z in groups for i in range(size)], moe.top_k
    )
  ]
  return np.mean(counts)


@pytest.mark.parametrize(
  "moe",
  [
    MoEConfig(experts=8, top_k=2, expert_ff=1),
    MoEConfig(experts=12, top_k=3, expert_ff=1, groups=4, top_groups=2),
    MoEConfig(experts=12, top_k=4, expert_ff=1, groups=6, top_groups=3),
    MoEConfig(experts=12, top_k=2, expert_ff=1, groups=2, top_groups=1),
  ],
)
def test_equals_the_mean_over_all_choices(moe):
  for devices in (n for n in range(1, moe.experts + 1) if moe.experts % n == 0):
    assert devices_per_token(moe, devices) == pytest.approx(of_all_choices(moe, devices))


def test_groups_bound_what_is_sent():
  moe = preset("v3_671b").moe
  assert devices_per_token(moe, 1) == pytest.approx(1)
  assert devices_per_token(moe, 256) == pytest.approx(8)
  assert devices_per_token(moe, 8) < 4  # a node for each group, four at most
  rng = np.random.default_rng(0)
  drawn = []
  for _ in range(4000):
    groups = rng.choice(8, 4, replace=False)
    experts = rng.choice(np.concatenate([np.arange(32) + 32 * z for z in groups]), 8, replace=False)
    drawn.append(len(set(experts // 4)))
  assert devices_per_token(moe, 64) == pytest.approx(np.mean(drawn), rel=0.01)


def test_experts_that_many_tokens_choose():
  moe = MoEConfig(experts=64, top_k=6, expert_ff=1)
  assert experts_touched(moe, 1) == pytest.approx(6)
  assert experts_touched(moe, 10_000) == pytest.approx(64)
