"""Settings of every test: eight CPU devices, so that sharding is tested in the same process.

Only this process has them (a program that a test starts has one device, as a user's has), and a
test that asks for none runs on the first. Measured on two cores: compiling costs the same, steps
about a fifth more.
"""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module")
def quick_compile():
  """Compiles the module's programs without most optimisations, in about half the time.

  For tests of what is computed, on arrays so small that compiling is all they cost.
  """
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
