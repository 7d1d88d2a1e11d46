"""Names of slices and clusters."""

import pytest

from deepseek_jax.config import ConfigError
from deepseek_jax.plan.hardware import DEVICES, device
from deepseek_jax.plan.topology import topology


@pytest.mark.parametrize(
  ("name", "devices", "sides"),
  [
    ("v5p-1024", 512, (8, 8, 8)),  # TensorCores, two in a chip
    ("v5p:8x8x8", 512, (8, 8, 8)),
    ("v5p-2048", 1024, (8, 8, 16)),
    ("v5p-8", 4, (2, 2, 1)),
    ("v5e-4", 4, (2, 2)),
    ("v6e-256", 256, (16, 16)),
    ("tpu7x-128", 128, (4, 4, 4)),  # TensorCores, each a device
    ("tpu7x:2x2x1", 8, (2, 2, 1)),
    ("H800-2048", 2048, ()),
  ],
)
def test_names(name, devices, sides):
  found = topology(name)
  assert (found.devices, found.sides) == (devices, sides)
  assert found.name == name.lower()


@pytest.mark.parametrize(
  ("name", "told"),
  [
    ("a100-8", "give DEVICE-COUNT like v5p-1024"),
    ("v5p", "give DEVICE-COUNT"),
    ("v5p-3", "its count is of TensorCores, 2 to a device"),
    ("h100-0", "its count must be positive"),
    ("h100:2x4", "h100 has no torus"),
    ("v5e:0x4", "every side must be positive"),
  ],
)
def test_what_is_none_is_refused(name, told):
  with pytest.raises(ConfigError, match=told):
    topology(name)


def test_domains():
  cluster = topology("h800-64")
  assert cluster.domain == 8
  assert [cluster.joined(stride, 16) for stride in (1, 2, 4, 8, 16)] == [8, 4, 2, 1, 1]
  assert cluster.joined(1, 4) == 4
  assert topology("v5p-1024").domain == 512  # one slice
  assert topology("v6e-512").domain == 256  # two pods


def test_an_exchange_on_a_torus_is_as_slow_as_its_longest_ring():
  v5p = topology("v5p-1024")
  assert v5p.exchange_bandwidth(1) == v5p.device.link
  # Rings of 2: half of the bytes stay, the rest has two links of 100 GB/s in each dimension.
  assert v5p.exchange_bandwidth(8) == pytest.approx(400e9)
  # Rings of 8: 8 / 8 of the bytes pass a link one way, of 100 GB/s.
  assert v5p.exchange_bandwidth(512) == pytest.approx(100e9)
  assert v5p.exchange_bandwidth(64) == pytest.approx(200e9)
  assert topology("h100-8").exchange_bandwidth(8) == 450e9


def test_devices_have_what_is_asked_of_them():
  assert set(DEVICES) == {"v5e", "v5p", "v6e", "tpu7x", "h100", "h200", "h800", "b200"}
  for found in DEVICES.values():
    assert found.flops["fp8"] >= found.flops["bfloat16"] >= found.flops["float32"] > 1e14
    assert found.network < found.link < found.bandwidth
    assert found.price > 0
  with pytest.raises(ConfigError, match="device 'a100' is unknown; use one of v5e"):
    device("a100")
