"""What a function does as JAX traces it, before any compiler: its equations, however deep."""

from collections.abc import Callable, Iterator

import jax


def equations(fn: Callable, *args) -> Iterator:
  """Every equation of `fn(*args)`, a function's called twice twice and a loop's once.

  The inside of a Pallas kernel is not looked into. `args` may be ShapeDtypeStructs.
  """
  yield from _below(jax.make_jaxpr(fn)(*args))


def _below(jaxpr) -> Iterator:
  for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:  # a closed one holds the open one
    yield eqn
    if eqn.primitive.name != "pallas_call":
      held = jax.tree.leaves(list(eqn.params.values()), is_leaf=_holds_equations)
      for inner in filter(_holds_equations, held):
        yield from _below(inner)


def _holds_equations(value) -> bool:
  return hasattr(getattr(value, "jaxpr", value), "eqns")


def named(primitive: str, fn: Callable, *args) -> list:
  """The equations of one primitive in `fn(*args)`."""
  return [eqn for eqn in equations(fn, *args) if eqn.primitive.name == primitive]


def biggest_array(fn: Callable, *args) -> int:
  """Elements of the largest array that `fn(*args)` makes anywhere."""
  outs = (v.aval for eqn in equations(fn, *args) for v in eqn.outvars)
  return max(aval.size for aval in outs if hasattr(aval, "size"))
