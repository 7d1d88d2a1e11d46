"""What is measured: an operation at a shape, its operands, and the forms that contend.

The operands of a case are groups by name: "own", those of the operation's own forms, and others
that hold the same numbers for what XLA does without quantisation. All values are random normal, as
a card's clock depends on them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from pallas_kernels.bench.work import Work

Operands = dict[str, tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Limits:
  """How far a result may be from the reference's, array by array.

  Attributes:
    diff: of |x - y|^2 / (|x|^2 + |y|^2), which is 1 - 2 <x, y> / (|x|^2 + |y|^2).
    largest: of the largest error over the largest magnitude.
  """

  diff: float
  largest: float


ROUNDED = Limits(1e-4, 0.02)  # bfloat16 results, and sums in another order
QUANTIZED = Limits(1e-4, 0.08)  # a scale's last bit decides some values' rounding: 32 of 448
CHOSEN = Limits(1e-3, 1.0)  # routing: a near tie may fall the other way and shift later ranks
TRAINED = Limits(1e-3, 0.05)  # a layer's gradients through results that were quantised again
UNQUANTIZED = Limits(5e-3, 0.2)  # bfloat16 beside FP8: formats differ, so it only tells nonsense


@dataclasses.dataclass(frozen=True)
class Form:
  """One way to compute a case.

  Attributes:
    name: as the table says it.
    run: of the operands in `group`.
    work: what it computes and moves; its rates and its peak follow from it.
    view: of a result and the group's operands, what is compared with the reference; not timed.
  """

  name: str
  run: Callable[..., Any]
  work: Work
  limits: Limits
  group: str = "own"
  view: Callable[..., Any] = lambda result, *operands: result


@dataclasses.dataclass(frozen=True)
class Case:
  """An operation at a shape.

  Attributes:
    call: the operation on the operands "own", taking `implementation`, of which ref, xla and a
      device's kernel are asked for.
    make: random operands from a key; traceable.
    others: forms of XLA besides `call`'s own.
    kinds: of kernels that there are.
  """

  operation: str
  shape: str
  call: Callable[..., Any]
  make: Callable[[jax.Array], Operands]
  work: Work
  limits: Limits = ROUNDED
  others: tuple[Form, ...] = ()
  kinds: tuple[str, ...] = ("tpu", "mgpu")

  def kernel(self, kind: str) -> Form:
    """The kernel for a kind of device, mgpu or tpu."""
    return Form("kernel", self._as(kind), self.work, self.limits)

  def xla(self) -> tuple[Form, ...]:
    """All forms of XLA; its own multiplies in bfloat16 whatever its operands are."""
    work = dataclasses.replace(self.work, precision="bf16")
    return Form("XLA", self._as("xla"), work, self.limits), *self.others

  def reference(self, operands: Operands) -> Any:
    """The result of the plain formula."""
    return jax.jit(self._as("ref"))(*operands["own"])

  def _as(self, implementation: str) -> Callable[..., Any]:
    return lambda *operands: self.call(*operands, implementation=implementation)


def normals(key: jax.Array, *, shapes: tuple[tuple[int, ...], ...], dtype: Any) -> Operands:
  """Random arrays as the operation's own operands."""
  keys = jax.random.split(key, len(shapes))
  return {"own": tuple(jax.random.normal(k, shape, dtype) for k, shape in zip(keys, shapes))}
