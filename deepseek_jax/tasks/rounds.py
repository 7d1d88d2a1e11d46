"""Problems of a finite task, each once in an order of its own, then once more in another."""

import functools
from collections.abc import Sequence

from deepseek_jax.tasks.task import Problem, Split, stream


def in_rounds(
  problems: Sequence[Problem], name: str, split: Split, index: int, seed: int
) -> Problem:
  """Problem `index` of an endless row of rounds, each of which has every problem once."""
  number, place = divmod(index, len(problems))
  return problems[_order(len(problems), f"{name}/{split}/{number}", seed)[place]]


@functools.lru_cache(maxsize=16)
def _order(size: int, name: str, seed: int) -> list[int]:
  """A permutation of the places, which hangs on the name and the seed alone."""
  places = list(range(size))
  stream(seed, name).shuffle(places)
  return places
