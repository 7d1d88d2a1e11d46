"""What looks at a run of training from outside: pages, figures of held-out problems."""

from typing import Protocol

from deepseek_jax.types import Weights


class Monitor(Protocol):
  """Whatever it does, what is learnt stays the same."""

  def due(self, step: int) -> bool:
    """Whether it wants to look, with so many steps done."""

  def look(self, step: int, weights: Weights) -> None:
    """Looks, while nothing else goes on. The weights are lent: the next step takes them."""

  def end(self, step: int, weights: Weights) -> None:
    """Looks once more: the run is at its end, and saved."""

  def close(self, error: BaseException | None) -> None:
    """Last of all, however the run ended; `error` is what stopped it, if anything did."""
