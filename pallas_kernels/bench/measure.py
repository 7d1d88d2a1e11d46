"""A case measured: forms are compared with the reference, and those that are right are timed."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.bench.cases import Case, Form, Limits, Operands
from pallas_kernels.bench.timing import CACHES, Timer, in_turn, sets_of
from pallas_kernels.dispatch import Unsupported


@dataclasses.dataclass(frozen=True)
class Row:
  """A form of a case.

  Attributes:
    seconds: of one call; None where it was not timed.
    note: why not.
    gain: for a kernel that was timed, XLA's time over its.
  """

  case: Case
  form: Form
  seconds: float | None = None
  note: str = ""
  gain: float | None = None


def measure(case: Case, kind: str, timer: Timer, caches: int = CACHES) -> list[Row]:
  """Rows of the kernel, where the device has a kind of them, of XLA's fastest form, and of those of
  XLA that failed.

  Args:
    kind: of the device's kernels, mgpu or tpu; xla where it runs none.
    caches: bytes that the operands of a program should exceed.

  A case that fails as a whole, as for want of memory, is one row that says so.
  """
  try:
    return _measured(case, kind, timer, caches)
  except Exception as error:  # of a compiler or a device: other cases are still worth having
    return [Row(case, case.xla()[0], note=failure(error))]


def _measured(case: Case, kind: str, timer: Timer, caches: int) -> list[Row]:
  kernels = [case.kernel(kind)] if kind in case.kinds else []
  forms = [*kernels, *case.xla()]
  sets = operand_sets(case, caches)
  notes = {form.name: problem for form, problem in zip(forms, problems(case, forms, sets[0]))}
  right = {form.name: form for form in forms if not notes[form.name]}
  programs = {name: in_turn(form.run, _groups(form, sets)) for name, form in right.items()}
  seconds = {name: each / len(sets) for name, each in timer(programs).items()}
  rows = [Row(case, form, seconds.get(form.name), notes[form.name]) for form in forms]
  return _chosen(rows[: len(kernels)], rows[len(kernels) :])


def operand_sets(case: Case, caches: int) -> list[Operands]:
  """As many sets of random operands as exceed the caches together."""
  shapes = jax.eval_shape(case.make, jax.random.key(0))["own"]
  size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))
  make = jax.jit(case.make)
  return [make(jax.random.key(seed)) for seed in range(sets_of(size, caches))]


def problems(case: Case, forms: list[Form], operands: Operands) -> list[str]:
  """What is wrong with each form, as a note for the table; empty where nothing is."""
  reference = case.reference(operands)
  return [_problem(form, operands, reference) for form in forms]


def _problem(form: Form, operands: Operands, reference: Any) -> str:
  given = operands[form.group]
  try:
    result = jax.block_until_ready(jax.jit(lambda *given: form.run(*given))(*given))
  except Unsupported as reason:
    return f"not supported: {reason}"
  except Exception as error:  # of a compiler or a device: other forms are still worth having
    return failure(error)
  return difference(form.view(result, *given), reference, form.limits)


def failure(error: Exception) -> str:
  """A note that fits a cell."""
  first_line = str(error).strip().partition("\n")[0]
  return f"failed: {type(error).__name__}: {first_line[:160]}"


def difference(result: Any, reference: Any, limits: Limits) -> str:
  """What is wrong with a result, array by array; empty where it is near the reference."""
  if jax.tree.map(jnp.shape, result) != jax.tree.map(jnp.shape, reference):
    return "wrong: the result has other shapes than the reference's"
  for x, y in zip(jax.tree.leaves(result), jax.tree.leaves(reference)):
    diff, largest = (float(number) for number in _distance(x, y))
    if not (diff <= limits.diff and largest <= limits.largest):  # NaN is wrong too
      return f"wrong: differs by {diff:.1e}, at most by {largest:.1e} of the largest"
  return ""


@jax.jit
def _distance(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
  """calc_diff of `testing.oracles` in a form without cancellation, and its max_relative."""
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  smallest = jnp.finfo(jnp.float32).tiny
  square = jnp.square(x - y).sum() / jnp.maximum(
    jnp.square(x).sum() + jnp.square(y).sum(), smallest
  )
  return square, jnp.abs(x - y).max() / jnp.maximum(jnp.abs(y).max(), smallest)


def _groups(form: Form, sets: list[Operands]) -> list[tuple[Any, ...]]:
  return [operands[form.group] for operands in sets]


def _chosen(kernels: list[Row], xla: list[Row]) -> list[Row]:
  """The kernel with its gain over XLA's fastest form, that form, and forms that were not timed."""
  timed = [row for row in xla if row.seconds is not None]
  best = min(timed, key=lambda row: row.seconds or 0.0, default=None)
  if best is not None and best.seconds is not None:
    kernels = [
      row if row.seconds is None else dataclasses.replace(row, gain=best.seconds / row.seconds)
      for row in kernels
    ]
  return kernels + ([best] if best else []) + [row for row in xla if row.seconds is None]
