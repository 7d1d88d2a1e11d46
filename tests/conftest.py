"""Settings of every test: devices, how programs are compiled and kept, and what a process holds.

Eight CPU devices, so that sharding is tested in the same process. Only this process has them (a
program that a test starts has one device, as a user's has), and a test that asks for none runs on
the first. Measured on two cores: compiling costs the same, steps about a fifth more.

XLA does to a program what it always does, and LLVM little: arrays here are so small that compiling
is what they cost. Up to jax 0.10, loops are written by XLA's older emitters besides; together a
program takes a third of the time. The programs that tests start are compiled as a user's are, and
so are the notebooks. All of them keep what they compiled for the next run.
"""

import ctypes
import functools
import gc
import os
from pathlib import Path

import jax
import pytest

from deepseek_jax import compilation

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)
# Thousands of small programs, each of whose files JAX reads whenever it writes another.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
jax.config.update(
  "jax_persistent_cache_min_compile_time_secs",
  float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]),
)
compilation.use_cache()
_OLDER_EMITTERS = "xla_cpu_use_fusion_emitters" if jax.__version_info__ < (0, 11) else None
if _OLDER_EMITTERS:
  with pytest.MonkeyPatch.context() as patch:  # read once, when the devices are made
    patch.setenv("XLA_FLAGS", f"--{_OLDER_EMITTERS}=false", prepend=" ")
    jax.devices()

_LONGEST = ("experiments", "parity")  # folders with files that take minutes
_MAPPINGS = 30_000  # each program on a CPU holds some; at Linux's usual 65,530 XLA's compiler dies
_RESIDENT = 1.2 * 2**30  # bytes: two processes, each with a real model, and torch's, fit in 8 GB


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """The longest files come first, so that two processes end at about the same time."""
  items.sort(key=lambda item: not set(_LONGEST) & set(item.path.parts))


@pytest.fixture(autouse=True, scope="module")
def few_mappings():
  """Forgets compiled programs before the process has too many mappings or too much memory."""
  yield
  if _mappings() > _MAPPINGS or _resident() > _RESIDENT:
    jax.clear_caches()
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc keeps what is freed otherwise
      ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def newer_emitters(monkeypatch: pytest.MonkeyPatch):
  """For a test whose programs must round alike to the last bit; of those that it jits itself."""
  if _OLDER_EMITTERS:
    options = {_OLDER_EMITTERS: True}
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))


def _mappings() -> int:
  maps = Path("/proc/self/maps")
  return maps.read_bytes().count(b"\n") if maps.exists() else 0


def _resident() -> int:
  """Bytes in memory."""
  statm = Path("/proc/self/statm")
  pages = int(statm.read_text().split()[1]) if statm.exists() else 0
  return pages * os.sysconf("SC_PAGE_SIZE")
