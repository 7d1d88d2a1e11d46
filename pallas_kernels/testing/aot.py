"""Compilation for chips that are not there: TPUs through libtpu, an H100 through XLA and ptxas.

libtpu and the CUDA plugin read their settings once per process, so tests compile in a process of
their own: `compile_file` runs this module on a file that defines `programs(chip)`, a dictionary of
names to `(function, arguments)`, and gives back the reports. `lower` needs no compiler at all.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from pallas_kernels import compat

ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
H100_SHARED_BYTES = 232_448  # of a block, on demand
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Chip:
  """A chip to compile for.

  Attributes:
    kind: the device kind that jax reports on it.
    platform: tpu or cuda.
    topology: the name of a topology with such chips.
    cores: TensorCores of a TPU's device, multiprocessors of a GPU.
  """

  kind: str
  platform: str
  topology: str
  cores: int


CHIPS = {
  "v5e": Chip("TPU v5 lite", "tpu", "v5e:2x2", 1),
  "v5p": Chip("TPU v5", "tpu", "v5p:2x2x1", 2),
  "v6e": Chip("TPU v6 lite", "tpu", "v6e:2x2", 1),
  "tpu7x": Chip("TPU7x", "tpu", "tpu7x:2x2x1", 1),
  "h100": Chip("NVIDIA H100 80GB HBM3", "cuda", "1x1x1", 132),
}
TPUS = ("v5e", "v5p", "v6e", "tpu7x")


@dataclasses.dataclass(frozen=True)
class Kernel:
  """What ptxas says of one Mosaic GPU kernel.

  Attributes:
    ptx: its PTX.
    spilled_bytes: stack traffic for want of registers, stores and loads.
    shared_bytes: shared memory that it asks for, barriers included.
  """

  ptx: str
  spilled_bytes: int
  shared_bytes: int


@dataclasses.dataclass(frozen=True)
class Report:
  """A compiled program: its HLO, its temporary memory in bytes and, on a GPU, its kernels."""

  hlo: str
  temp_bytes: int
  kernels: tuple[Kernel, ...] = ()

  @property
  def ptx(self) -> str:
    return "\n".join(kernel.ptx for kernel in self.kernels)

  @property
  def spilled_bytes(self) -> int:
    return sum(kernel.spilled_bytes for kernel in self.kernels)

  @property
  def shared_bytes(self) -> int:
    return max((kernel.shared_bytes for kernel in self.kernels), default=0)


def missing(chip: str) -> str:
  """What this environment lacks to compile for a chip, as a reason to skip; empty if nothing."""
  if CHIPS[chip].platform == "tpu":
    return "" if importlib.util.find_spec("libtpu") else "libtpu is not installed"
  if not compat.HAS_MGPU:
    return "jax is older than 0.11.2"
  plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin")
  found = any(importlib.util.find_spec(plugin) for plugin in plugins)
  return "" if found else "no CUDA plugin of jax is installed"


@contextlib.contextmanager
def pretended(chip: str, cores: int | None = None) -> Iterator[None]:
  """Traces within it see this chip, with `cores` cores where given."""
  facts = CHIPS[chip]
  device = jax.sharding.AbstractDevice(
    device_kind=facts.kind,
    platform="gpu" if facts.platform == "cuda" else facts.platform,
    num_cores=cores or facts.cores,
  )
  mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh):
    yield


def lower(function: Callable[..., Any], args: Sequence[Any], chip: str) -> str:
  """The StableHLO of `function` for a chip; works without its compiler."""
  with pretended(chip):
    traced = jax.jit(function).trace(*args)
    return traced.lower(lowering_platforms=(CHIPS[chip].platform,)).as_text()


def compile_tpu(function: Callable[..., Any], args: Sequence[Any], chip: str) -> Report:
  """Compiles through libtpu; errors such as an overflow of VMEM surface as the compiler's."""
  compiled = _compile(function, args, chip)
  return Report(compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes)


def compile_hopper(function: Callable[..., Any], args: Sequence[Any]) -> Report:
  """Compiles for an H100 down to machine code; too much shared memory raises ValueError."""
  with tempfile.TemporaryDirectory() as folder:
    dumps = {"MOSAIC_GPU_DUMP_PTX": "1", "MOSAIC_GPU_DUMP_PTXAS": "1"}
    os.environ.update(dumps, MOSAIC_GPU_DUMP_TO=folder)
    compiled = _compile(function, args, "h100")
    kernels = tuple(_kernel(path) for path in sorted(Path(folder).glob("*.ptx")))
  return Report(compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes, kernels)


def _compile(function: Callable[..., Any], args: Sequence[Any], chip: str) -> Any:
  sharding = jax.sharding.SingleDeviceSharding(_device(chip))
  placed = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tuple(args)
  )
  with pretended(chip):
    lowered = jax.jit(function).trace(*placed).lower(lowering_platforms=(CHIPS[chip].platform,))
  return lowered.compile()


@functools.cache
def _device(chip: str) -> Any:
  facts = CHIPS[chip]
  if facts.platform == "tpu":
    return topologies.get_topology_desc(platform="tpu", topology_name=facts.topology).devices[0]
  return topologies.get_topology_desc(
    platform="cuda", target_config=_H100, topology=facts.topology
  ).devices[0]


def _kernel(ptx: Path) -> Kernel:
  """Reads a kernel's dumps: NAME.ptx, NAME.ptxas, NAME.resources.txt."""
  log = ptx.with_suffix(".ptxas").read_text()
  spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", log)]
  if not spills:
    raise RuntimeError(f"{ptx.name}: ptxas gave no account of its spills.")
  resources = ptx.with_suffix(".resources.txt").read_text()
  scratch = re.search(r"smem_scratch_bytes=(\d+)", resources)
  if scratch is None:
    raise RuntimeError(f"{ptx.name}: its resources name no shared memory.")
  barriers = re.findall(r"num_barriers=(\d+)[^)]*\): (\d+)", resources)
  barrier_bytes = 8 * sum(int(number) * int(times) for number, times in barriers)
  return Kernel(ptx.read_text(), sum(spills), int(scratch[1]) + barrier_bytes)


def compile_file(
  file: str | Path, chips: Sequence[str], programs: str = "programs", timeout: float = 600
) -> dict[str, dict[str, Report]]:
  """Compiles what a function of a Python file gives for each chip, in one new process.

  Args:
    programs: the function's name; it takes a chip and gives names to (function, arguments).

  Returns:
    reports by chip and by name of the program.

  Raises:
    RuntimeError: with the compiler's last words, where a program does not compile.
  """
  with tempfile.TemporaryDirectory() as folder:
    out = Path(folder, "reports.json")
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
      [sys.executable, "-m", "pallas_kernels.testing.aot", str(file), programs, str(out), *chips],
      env=os.environ | ENVIRONMENT | {"PYTHONPATH": path},
      capture_output=True,
      text=True,
      timeout=timeout,
    )
    if done.returncode:
      raise RuntimeError(f"{file} does not compile for {chips}:\n{done.stderr[-4000:]}")
    read = json.loads(out.read_text())
  return {chip: {name: _report(r) for name, r in named.items()} for chip, named in read.items()}


def _report(fields: Mapping[str, Any]) -> Report:
  return Report(**{**fields, "kernels": tuple(Kernel(**k) for k in fields["kernels"])})


def _main(file: str, programs: str, out: str, *chips: str) -> None:
  spec = importlib.util.spec_from_file_location("programs", file)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  reports: dict[str, dict[str, Any]] = {}
  for chip in chips:
    reports[chip] = {}
    for name, (function, args) in getattr(module, programs)(chip).items():
      print(f"{name} for {chip}", file=sys.stderr)
      if chip == "h100":
        report = compile_hopper(function, args)
      else:
        report = compile_tpu(function, args, chip)
      reports[chip][name] = dataclasses.asdict(report)
  Path(out).write_text(json.dumps(reports))


if __name__ == "__main__":
  _main(*sys.argv[1:])
