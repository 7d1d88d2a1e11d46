"""Settings of every test: eight CPU devices, so that sharding is tested in the same process.

Only this process has them (a program that a test starts has one device, as a user's has), and a
test that asks for none runs on the first. Measured on two cores: compiling costs the same, steps
about a fifth more.
"""

import gc
from pathlib import Path

import jax
import pytest

from deepseek_jax import compilation

jax.config.update("jax_num_cpu_devices", 8)
compilation.use_cache()


@pytest.fixture(autouse=True, scope="module")
def few_mappings():
  """Forgets compiled programs before the kernel runs out of memory mappings.

  Each program on a CPU holds some; at Linux's usual limit of 65,530 the next compilation ends the
  process with a segmentation fault.
  """
  yield
  maps = Path("/proc/self/maps")
  if maps.exists() and len(maps.read_bytes().splitlines()) > 30_000:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def quick_compile():
  """Compiles the module's programs without most optimisations, in about half the time.

  For tests of what is computed, on arrays so small that compiling is all they cost.
  """
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
