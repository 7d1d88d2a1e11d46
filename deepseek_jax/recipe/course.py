"""What the loop needs of a stage of any kind: how many steps, the step function, and the feed.

All are pure in the stage's position, so a killed stage continues as if it had not been.
"""

import dataclasses

import jax

from deepseek_jax.train.loop import FeedFn, StepFn
from deepseek_jax.types import Batch


@dataclasses.dataclass(frozen=True)
class Course:
  """A stage as the loop sees it."""

  steps: int
  step: StepFn
  feed: FeedFn


def only_micro(batch: Batch) -> Batch:
  """A batch as the only micro-batch of a step."""
  return jax.tree.map(lambda x: x[None], batch)
