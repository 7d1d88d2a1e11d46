"""Seconds and prices by the roofline, by hand where little is involved."""

import dataclasses

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.plan.estimate import plan
from deepseek_jax.plan.flops import flops_by_part, forward_flops
from deepseek_jax.plan.hardware import DEVICES
from deepseek_jax.plan.memory import cache_bytes, weight_bytes
from deepseek_jax.plan.reinforcement import phases
from deepseek_jax.plan.roofline import Attained, StepTime, step_time
from deepseek_jax.plan.serving import EXCHANGE, Serving, smallest_group
from deepseek_jax.plan.topology import topology
from deepseek_jax.presets import preset
from deepseek_jax.sharding import MeshConfig
from tests.deepseek_jax.plan.workloads import MINI, SAMPLING

QWEN = preset("r1_distill_qwen_7b")
V3 = preset("v3_671b")
ALONE = dataclasses.replace(MINI, model=QWEN, mesh=MeshConfig(), rows=4, length=4096)
ALL = Attained(compute=1.0, memory=1.0, links=1.0, overlap=0.0)


def test_one_device_computes_its_flops():
  time = step_time(ALONE, topology("h100-1"), ALL)
  forward = forward_flops(QWEN, 2048) * 4 * 4096
  assert time.compute == pytest.approx(4 * forward / 989.4e12)  # a forward pass is made again
  assert time.model_flops == pytest.approx(3 * forward)
  assert (time.link, time.network, time.exposed) == (0, 0, 0)
  assert time.seconds == time.computing + time.optimiser
  assert time.utilisation(topology("h100-1")) == pytest.approx(0.75, rel=0.05)


def test_fp8_is_for_linear_layers():
  precise = dataclasses.replace(ALONE, compute=dataclasses.replace(ALONE.compute, precision="fp8"))
  parts = flops_by_part(QWEN, 2048)
  linear = parts["attention projections"] + parts["dense feed-forward"]
  peaks = DEVICES["h100"].flops
  rest = sum(parts.values()) - linear
  expected = 4 * 4 * 4096 * (linear / peaks["fp8"] + rest / peaks["bfloat16"])
  assert step_time(precise, topology("h100-1"), ALL).compute == pytest.approx(expected)
  tpu = topology("v6e-1")  # has no FP8 products
  assert step_time(precise, tpu, ALL).compute == step_time(ALONE, tpu, ALL).compute


def test_sending_hides_under_computing():
  time = StepTime(
    compute=10.0, memory=4.0, link=9.0, network=3.0, summing=0.0, optimiser=1.0, overlap=0.8,
    tokens=110, model_flops=1.0,
  )  # fmt: skip
  assert (time.exposed, time.seconds, time.tokens_per_second) == (1.0, 12.0, 110 / 12)
  assert time.bound == "compute"
  assert dataclasses.replace(time, network=20.0).exposed == 12.0
  assert dataclasses.replace(time, network=20.0).bound == "network"


@pytest.mark.parametrize("shares", [{"compute": 0.0}, {"links": 1.2}, {"overlap": -0.1}])
def test_shares_are_shares(shares):
  with pytest.raises(ConfigError, match=f"--attained {next(iter(shares))} is"):
    Attained(**shares)


def test_a_plan_costs_what_its_hours_cost():
  made = plan(ALONE, topology("h100-1"))
  assert made.price == DEVICES["h100"].price
  assert made.hours_per_trillion == pytest.approx(1e12 / made.tokens_per_second / 3600)
  dear = plan(ALONE, topology("h100-1"), price=7.0)
  assert dear.price_per_trillion == pytest.approx(7 * made.hours_per_trillion)
  assert plan(ALONE, topology("h100-1"), price=0.0).price_per_trillion == 0


def test_a_mesh_must_be_the_topologys():
  with pytest.raises(ConfigError, match=r"= 1 devices, but h100-8 has 8; give --config.mesh"):
    plan(ALONE, topology("h100-8"))
  with pytest.raises(ConfigError, match=r"a micro-batch has 4 rows; they must divide by mesh"):
    plan(dataclasses.replace(ALONE, mesh=MeshConfig(fsdp=8)), topology("h100-8"))


def test_decoding_reads_weights_and_caches():
  group = Serving(QWEN, topology("h100-1"), 1, attained=ALL)
  weights = weight_bytes(QWEN, "bfloat16")
  expected = (weights + 3 * cache_bytes(QWEN, 1000)) / 3350e9
  assert group.step(3, 1000) == pytest.approx(expected)
  assert group.weights == weights
  assert group.rows(131_072) == int((group.topology.device.memory * 0.9 - weights) // 7_516_192_768)


def test_decoding_many_rows_is_bound_by_arithmetic():
  group = Serving(QWEN, topology("h100-1"), 1, attained=ALL)
  assert group.step(4096, 10) == pytest.approx(4096 * forward_flops(QWEN, 10) / 989.4e12)


def test_one_token_reads_its_experts_only():
  group = Serving(V3, topology("h800-16"), 16, "fp8", ALL)
  fixed = 2 * 61 * EXCHANGE
  one = (group.step(1, 0) - fixed) * 3350e9 * 16
  assert one == pytest.approx(38e9, rel=0.05)  # 37B active, most of them in a byte
  many = (group.step(500, 0) - fixed) * 3350e9 * 16
  assert many == pytest.approx(weight_bytes(V3, "fp8", mtp=False), rel=0.01)


def test_the_smallest_group_holds_a_request():
  group = smallest_group(V3, topology("h800-2048"), 131_072, "fp8", ALL)
  assert group is not None and group.devices == 16
  assert Serving(V3, group.topology, 8, "fp8", ALL).rows(131_072) == 0
  assert smallest_group(V3, topology("h800-8"), 131_072, "bfloat16", ALL) is None


def test_phases_of_an_iteration():
  work = dataclasses.replace(ALONE, sampling=SAMPLING, rows=4, length=1024)
  place = topology("h100-1")
  update = step_time(work, place, ALL)
  found = phases(work, place, ALL, update)
  # 64 samples of 50 tokens and the prompts before them fill 4,224 tokens; an update has half.
  assert found.updating == pytest.approx(2 * update.seconds)
  group = Serving(QWEN, place, 1, attained=ALL)
  steps = 112  # of the longest: 32 rows would do with 100
  decoding = steps * group.step(64 * 50 / steps, 16 + 25)
  assert found.sampling == pytest.approx(decoding + 64 * group.prefill(16))
  assert found.scoring == pytest.approx(64 * 66 * forward_flops(QWEN, 33) / 989.4e12)
  assert found.weights == 0  # they are there
  assert found.tokens == 3200
  two = dataclasses.replace(work, mesh=MeshConfig(fsdp=2))
  assert phases(two, topology("h100-2"), ALL, update).weights > 0


def test_a_plan_of_reinforcement_counts_sampled_tokens():
  made = plan(dataclasses.replace(ALONE, sampling=SAMPLING), topology("h100-1"))
  assert made.phases is not None
  assert made.seconds == made.phases.seconds
  assert made.tokens_per_second == 3200 / made.phases.seconds


def test_the_mean_sample_is_not_longer_than_the_longest():
  with pytest.raises(ConfigError, match="--sampled is 200; give 1 to 112"):
    dataclasses.replace(SAMPLING, mean=200)
