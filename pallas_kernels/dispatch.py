"""Which implementation of an operation runs, chosen by the device and said once in the log."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax

_log = logging.getLogger("pallas_kernels")


class Unsupported(ValueError):  # noqa: N818 (an answer, not a fault)
  """A kernel's reason for not taking these shapes or dtypes, as one sentence."""


def require(met: bool, reason: str) -> None:
  """Raises Unsupported unless a kernel's condition is met."""
  if not met:
    raise Unsupported(reason)


def call(
  op: str,
  implementation: str | None,
  forms: Mapping[str, Callable[..., Any]],
  *args: Any,
  **options: Any,
) -> Any:
  """Runs one of the `forms` of an operation.

  None runs the kernel made for the default device; where there is none or it raises `Unsupported`,
  the form `xla`, or `ref` where that is XLA's best too.

  Raises:
    ValueError: a named implementation does not exist for this operation.
    Unsupported: a named implementation does not take these arguments.
  """
  if implementation is not None:
    if implementation not in forms:
      known = ", ".join(forms)
      raise ValueError(f"{op} has no implementation {implementation!r}; it has {known}.")
    return forms[implementation](*args, **options)
  fallback = "xla" if "xla" in forms else "ref"
  kernel = device_kernel()
  if kernel not in forms:
    _say(op, fallback, "")
    return forms[fallback](*args, **options)
  try:
    result = forms[kernel](*args, **options)
  except Unsupported as reason:
    _say(op, fallback, f", for {reason}")
    return forms[fallback](*args, **options)
  _say(op, kernel, "")
  return result


def device_kernel() -> str:
  """The kind of kernel the default device runs: tpu, mgpu (Hopper), or xla."""
  device = jax.devices()[0]
  if device.platform == "tpu":
    return "tpu"
  hopper = getattr(device, "compute_capability", None) == "9.0"
  return "mgpu" if hopper else "xla"


@functools.cache
def _say(op: str, chosen: str, why: str) -> None:
  """Once per operation and choice."""
  _log.info("%s runs as %s%s", op, chosen, why)
