"""What the interpreters' race detectors say; their state itself is not public, their output is."""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax

_WORDS = "RACE DETECTED"


@contextlib.contextmanager
def reported() -> Iterator[list[str]]:
  """Collects the races found by kernels that run to their end within it.

  The tests of mutations hold this to account: they fail if the detectors' words change.
  """
  found: list[str] = []
  said = io.StringIO()
  handler = logging.StreamHandler(said)  # jax 0.12 logs what earlier versions print
  logging.getLogger().addHandler(handler)
  try:
    with contextlib.redirect_stdout(said):
      yield found
  finally:
    logging.getLogger().removeHandler(handler)
    found.extend(_WORDS + text for text in said.getvalue().split(_WORDS)[1:])


def run(function: Callable[..., Any], *args: Any) -> tuple[Any, list[str]]:
  """The result of a jitted call and the races found in it."""
  with reported() as found:
    result = jax.block_until_ready(jax.jit(function)(*args))
  return result, found
