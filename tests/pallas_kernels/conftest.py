"""Settings of the kernels' tests."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def optimised():
  """Programs compiled as users' are: rounding decides here.

  A kernel and its reference must round alike wherever the next step compares for equality, and
  without LLVM's optimisations the interpreted router rounds one affinity in two ways.
  """
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)
