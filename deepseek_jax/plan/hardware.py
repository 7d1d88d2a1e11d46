"""What accelerators can do by their makers' figures, and what an hour of one costs.

A device is what JAX calls one: a TPU chip, one of the two halves of a tpu7x chip, a GPU. Peaks are
of dense products, in decimal units; `link` is what one device sends over all its fast links (ICI,
NVLink) in one direction, `network` what it sends over the data-centre network.

Sources, as of November 2026:
  TPUs    docs.cloud.google.com/tpu/docs/{v6e,v5p-training,tpu7x}: peak compute, HBM, the ICI
          bandwidth of a chip, of which one direction is half, and DCN. Memory is what a program
          may have: of v5p 95.74 GiB, as its compiler says (libtpu 0.0.42.1); of the others the
          chip's less a quarter to one GiB and a quarter, which was not checked here.
  Hopper  NVIDIA's H100 and H200 SXM datasheets, without sparsity; NVLink 900 GB/s and one 400 Gb/s
          adapter per GPU as in DGX H100. H800 is an H100 with NVLink of 400 GB/s (2505.09343,
          section 4.1), 200 one way, of which V3 reached 160 (2412.19437, section 3.2).
  B200    NVIDIA's HGX B200 datasheet: 4.5 PFLOPS of dense FP8, 180 GB at 7.7 TB/s, NVLink 1.8 TB/s.
Of a GPU's memory 93 % is taken to be a program's, for its context and allocator need some.

Prices are of a device-hour in US dollars and only defaults; give your own with --price. 2.00 for an
H800 is DeepSeek's own assumption (2412.19437, table 1, December 2024). H100, H200 (May 2026) and
B200 (March 2026) are the middle of what specialised clouds ask. Those of TPUs are Google's
on-demand prices in US regions as remembered of 2025, not looked up again; no list price of tpu7x
was found, and 12 a chip is a guess.
"""

import dataclasses
from collections.abc import Mapping

from deepseek_jax.config import require

GIB = 2**30
_TERA, _GIGA = 10**12, 10**9
_GPU_SHARE = 0.93


@dataclasses.dataclass(frozen=True)
class Device:
  """One device's figures."""

  name: str
  flops: Mapping[str, float]  # per second, by dtype; fp8 is bfloat16's where there is none
  memory: int  # bytes that a program may have
  bandwidth: float  # bytes per second of HBM
  link: float  # bytes per second, one way, over all fast links
  network: float  # bytes per second, one way
  domain: int  # most devices that fast links join
  price: float  # US dollars per hour
  torus: int = 0  # dimensions of the fast links' torus; 0: all reach all at once
  cores: int = 1  # by which a slice's name counts, in a device


def _flops(bfloat16: float, fp8: float, float32: float) -> dict[str, float]:
  """Peaks given in TFLOP/s. Float32 is as JAX multiplies by default: TF32, bfloat16 on a TPU."""
  return {"bfloat16": bfloat16 * _TERA, "fp8": fp8 * _TERA, "float32": float32 * _TERA}


def _tpu(name: str, flops: dict[str, float], gib: float, hbm: float, **others) -> Device:
  return Device(name, flops, int(gib * GIB), hbm * _GIGA, **others)


def _gpu(name: str, flops: dict[str, float], gb: float, hbm: float, link: float, price: float):
  """A GPU of eight to a node with a 400 Gb/s adapter each."""
  memory = int(gb * _GIGA * _GPU_SHARE)
  return Device(name, flops, memory, hbm * _GIGA, link * _GIGA, 50 * _GIGA, 8, price)


_HOPPER = _flops(989.4, 1978.9, 494.7)
DEVICES: dict[str, Device] = {
  device.name: device
  for device in (
    _tpu(
      "v5e", _flops(197, 197, 197), 15.75, 819,
      link=200e9, network=3.1e9, domain=256, price=1.20, torus=2,
    ),
    _tpu(
      "v5p", _flops(459, 459, 459), 95.74, 2765,
      link=600e9, network=6.25e9, domain=8960, price=4.20, torus=3, cores=2,
    ),
    _tpu(
      "v6e", _flops(918, 918, 918), 31.25, 1638,
      link=400e9, network=12.5e9, domain=256, price=2.70, torus=2,
    ),
    _tpu(  # half a chip
      "tpu7x", _flops(1153.5, 2307, 1153.5), 95.375, 3690,
      link=300e9, network=6.25e9, domain=18_432, price=6.00, torus=3,
    ),
    _gpu("h100", _HOPPER, 80, 3350, 450, 3.00),
    _gpu("h200", _HOPPER, 141, 4800, 450, 4.00),
    _gpu("h800", _HOPPER, 80, 3350, 200, 2.00),
    _gpu("b200", _flops(2250, 4500, 1125), 180, 7700, 900, 5.25),
  )
}  # fmt: skip


def device(name: str) -> Device:
  """The named device; ConfigError names those there are."""
  require(name in DEVICES, f"device {name!r} is unknown; use one of {', '.join(DEVICES)}.")
  return DEVICES[name]
