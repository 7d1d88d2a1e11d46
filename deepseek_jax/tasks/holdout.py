"""Which problems are held out from every stage of training.

The split hangs on the absolute values of the operands in their order, and on nothing else: not on
the task, the target, the signs or the language. So a held-out `make 8 from 3 7 2 4` is not seen as
the chain sum `3 7 -2 4` either. A longer problem may begin with a held-out one's operands, as any
sum of eight terms begins with one of four: that is another problem.
"""

from collections.abc import Sequence

from deepseek_jax.tasks.task import Split, hash_of

HELD_OUT_PERCENT = 20


def split_of(operands: Sequence[int]) -> Split:
  """The split that these operands belong to: about a fifth of all are held out."""
  return split_of_text(" ".join([str(abs(n)) for n in operands]))


def split_of_text(text: str, percent: int = HELD_OUT_PERCENT) -> Split:
  """The split of whatever this text identifies; `percent` of all texts are held out."""
  return "heldout" if hash_of(f"holdout {text}") % 100 < percent else "train"
