"""How many devices a token's experts lie on, by counting.

The router is taken to choose evenly: M of Z groups, and then A of the experts in these
(2412.19437, section 2.1.2). A device holds E / P experts that follow one another. The chance that
it holds none of a token's is a sum over how many of its groups are chosen.
"""

import functools
import math

from deepseek_jax.config import MoEConfig


@functools.lru_cache(maxsize=256)
def devices_per_token(moe: MoEConfig, devices: int) -> float:
  """Expected devices, of `devices` over which the experts lie, that hold one or more of a token's.

  `devices` divides `moe.experts`.
  """
  size = moe.experts // moe.groups  # of a group
  held = moe.experts // devices
  expected = 0.0
  for first in range(0, moe.experts, held):
    shares = [
      min(first + held, (z + 1) * size) - max(first, z * size)
      for z in range(first // size, -(-(first + held) // size))
    ]
    expected += 1 - _missed(moe, shares)
  return expected


def _missed(moe: MoEConfig, shares: list[int]) -> float:
  """The chance that no expert is chosen of a device that holds `shares` of so many groups."""
  sets: dict[tuple[int, int], int] = {(0, 0): 1}  # (groups chosen, their experts here) -> ways
  for share in shares:
    for (chosen, here), ways in list(sets.items()):
      key = chosen + 1, here + share
      sets[key] = sets.get(key, 0) + ways
  candidates = moe.top_groups * moe.experts // moe.groups
  others = moe.groups - len(shares)
  total = math.comb(moe.groups, moe.top_groups)
  return sum(
    ways
    * math.comb(others, moe.top_groups - chosen)
    / total
    * math.comb(candidates - here, moe.top_k)
    / math.comb(candidates, moe.top_k)
    for (chosen, here), ways in sets.items()
    if 0 <= moe.top_groups - chosen <= others
  )


def experts_touched(moe: MoEConfig, tokens: float) -> float:
  """Expected distinct experts of a layer that `tokens` tokens choose."""
  return moe.experts * (1 - (1 - moe.top_k / moe.experts) ** tokens)
