"""Wall-clock times of programs that take turns.

A measurement dispatches one program again and again and waits for the last call only, so that the
host's part hides behind the device's work; a program is itself several calls of what is measured,
on operands that together exceed the caches. Contenders take turns, so that a card that grows warm
slows all of them.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax

CACHES = 256 << 20  # bytes that operands must exceed together; Hopper's L2 has 50 MiB
MOST_SETS = 8
_MOST_ROUNDS = 10_000

Program = Callable[[], Any]
Timer = Callable[[Mapping[str, Program]], dict[str, float]]  # seconds of one call, by name


@dataclasses.dataclass(frozen=True)
class Clock:
  """A timer.

  Attributes:
    repeats: measurements of each program; their median counts.
    least: seconds that a measurement should last, for which a program is dispatched repeatedly.
  """

  repeats: int = 7
  least: float = 0.02

  def __call__(self, programs: Mapping[str, Program]) -> dict[str, float]:
    """Seconds of one dispatch of each."""
    rounds = {name: self._rounds(program) for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(self.repeats):
      for name, program in programs.items():
        seconds[name].append(_measured(program, rounds[name]))
    return {name: statistics.median(found) for name, found in seconds.items()}

  def _rounds(self, program: Program) -> int:
    """How many dispatches last long enough, of a program that is warm by then."""
    _measured(program, 1)
    return min(max(1, math.ceil(self.least / _measured(program, 2))), _MOST_ROUNDS)


def _measured(program: Program, rounds: int) -> float:
  result = None
  start = time.perf_counter()
  for _ in range(rounds):
    result = program()
  jax.block_until_ready(result)
  return (time.perf_counter() - start) / rounds


def sets_of(operand_bytes: int, caches: int = CACHES) -> int:
  """Sets of operands of so many bytes to take in turn, so that none is still in a cache."""
  return min(max(1, -(-caches // operand_bytes)), MOST_SETS)


def in_turn(function: Callable[..., Any], sets: Sequence[tuple[Any, ...]]) -> Program:
  """A program that calls `function` on each set of operands, one after the other, and keeps all
  results: so that no call is left out, merged with another or begun before the one before."""

  def calls(sets: Sequence[tuple[Any, ...]]) -> list[Any]:
    results: list[Any] = []
    for operands in sets:
      if results:
        operands, results[-1] = lax.optimization_barrier((operands, results[-1]))
      results.append(function(*operands))
    return results

  compiled = jax.jit(calls)
  return lambda: compiled(sets)
