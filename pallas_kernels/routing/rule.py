"""How experts are chosen: the sizes and variants of V2's and V3's routers, and what they give."""

import dataclasses
from typing import NamedTuple

import jax


@dataclasses.dataclass(frozen=True)
class Rule:
  """A router's constants (2412.19437, section 2.1.2; V2: 2405.04434, section 2.1.2).

  A token visits the `top_k` experts that score highest among those of its `top_groups` best groups.
  """

  top_k: int  # A
  groups: int = 1  # Z; of equally many experts, in order
  top_groups: int = 1
  scoring: str = "sigmoid"  # sigmoid (V3) | softmax (V2)
  group_score: str = "top2"  # the sum of a group's two best (V3) | max (V2)
  normalize: bool = True  # weights are divided by their sum
  scale: float = 1.0

  def __post_init__(self) -> None:
    if self.scoring not in ("sigmoid", "softmax"):
      raise ValueError(f"scoring is {self.scoring!r}; use sigmoid or softmax.")
    if self.group_score not in ("top2", "max"):
      raise ValueError(f"group_score is {self.group_score!r}; use top2 or max.")
    if not 0 < self.top_groups <= self.groups:
      raise ValueError(f"top_groups is {self.top_groups}; there are {self.groups} groups.")

  @property
  def limited(self) -> bool:
    """Whether some groups are closed to a token."""
    return self.top_groups < self.groups

  def check(self, experts: int) -> None:
    """Raises ValueError where the rule cannot choose among so many experts."""
    if experts % self.groups:
      raise ValueError(f"{self.groups} groups do not divide {experts} experts.")
    reachable = experts // self.groups * self.top_groups
    if not 0 < self.top_k <= reachable:
      raise ValueError(f"top_k is {self.top_k}; a token can reach {reachable} experts.")
    if self.limited and self.group_score == "top2" and experts == self.groups:
      raise ValueError("A group of one expert has no two best.")


class Routing(NamedTuple):
  """A token's experts and what sorting the choices by expert needs to know of them."""

  experts_NA: jax.Array  # int32, ascending within a token
  weights_NA: jax.Array  # float32
  rank_NA: jax.Array  # int32: how many earlier tokens chose the same expert
  counts_E: jax.Array  # int32: how many tokens chose the expert
