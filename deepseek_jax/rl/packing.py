"""Laying sampled sequences out in rows of one width, so that every update has the same shapes.

Sequences of one prompt may share it: it stands once in a row, and behind it one sequence after the
other, each a segment that sees the prompt's and itself, its positions running on from there. Their
log-probabilities and gradients are those of sequences by themselves; experts' loads count the
prompt once. The prompt's last tokens, which predict what was sampled, are repeated in each.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np

from deepseek_jax.data.packing import best_fit, empty_batch
from deepseek_jax.rl.completions import Completion
from deepseek_jax.types import SHARED, RolloutBatch


@dataclasses.dataclass(frozen=True)
class _Block:
  """Completions that stand together, behind what their prompts share."""

  members: tuple[int, ...]
  shared: int  # tokens of the prompt that stand once
  size: int  # tokens in all


def pack(
  completions: Sequence[Completion],
  advantage_N: np.ndarray,
  weight_N: np.ndarray,
  shape: tuple[int, int, int],
  pad_id: int,
  repeated: int = 0,
) -> tuple[RolloutBatch, int]:
  """The completions as a RolloutBatch of `shape` [M, B, T] and how many micro-batches hold any.

  `advantage_N` and `weight_N` are those of every token of a completion that the model said; prompts
  and replies are not trained on. M * B must be no less than the number of completions. Reference
  log-probabilities are zero. With `repeated`, the number of a prompt's last tokens that each
  completion has for itself (one, and one more for each MTP module), neighbours of one prompt share
  the rest of it.
  """
  most, rows, width = shape
  blocks = _blocks(completions, width, repeated)
  layout = best_fit([block.size for block in blocks], width)
  if len(layout) > most * rows:
    raise ValueError(
      f"{len(completions)} samples need {len(layout)} rows; there are {most * rows}."
    )
  used = -(-len(layout) // rows)
  batch = empty_batch(most * rows, width, pad_id)
  flat = batch.tokens_BT.shape
  advantage_BT, weight_BT, logprob_BT = (np.zeros(flat, np.float32) for _ in range(3))
  layers, _, active = completions[0].experts_LTA.shape
  experts_LBTA = np.full((layers, *flat, active), -1, np.int32)

  def lay(row: int, start: int, i: int, tokens: slice, segment: int) -> int:
    """Puts tokens of completion i, counted from its prompt's first, there; where they end."""
    one = completions[i]
    sequence = (one.prompt + one.tokens)[tokens]
    place = slice(start, start + len(sequence))
    batch.tokens_BT[row, place] = sequence
    batch.positions_BT[row, place] = np.arange(len(one))[tokens]
    batch.segments_BT[row, place] = segment
    experts_LBTA[:, row, place] = one.experts_LTA[:, tokens]
    return place.stop

  for row, indices in enumerate(layout):
    start, segments = 0, itertools.count(1)
    for block in (blocks[index] for index in indices):
      root = next(segments)
      start = lay(row, start, block.members[0], slice(block.shared), root)
      for i in block.members:
        own = root + SHARED * next(segments) if block.shared else root
        end = lay(row, start, i, slice(block.shared, None), own)
        sampled_T = completions[i].sampled_T
        place = end - len(sampled_T) + np.flatnonzero(sampled_T)
        batch.loss_mask_BT[row, place] = 1.0
        advantage_BT[row, place] = advantage_N[i]
        weight_BT[row, place] = weight_N[i]
        logprob_BT[row, place] = completions[i].logprobs_T[sampled_T]
        start = end

  def split(x_BT: np.ndarray) -> np.ndarray:
    return x_BT.reshape(shape)

  rollout = RolloutBatch(
    batch=jax.tree.map(split, batch),
    advantage_BT=split(advantage_BT),
    weight_BT=split(weight_BT),
    old_logprob_BT=split(logprob_BT),
    ref_logprob_BT=np.zeros(shape, np.float32),
    experts_LBTA=experts_LBTA.reshape(layers, *shape, active).swapaxes(0, 1),
  )
  return rollout, used


def _blocks(completions: Sequence[Completion], width: int, repeated: int) -> list[_Block]:
  """What stands together: each completion by itself, or neighbours of one prompt up to a row."""
  if not repeated:
    return [_Block((i,), 0, len(one)) for i, one in enumerate(completions)]
  blocks = []
  for prompt, group in itertools.groupby(range(len(completions)), lambda i: completions[i].prompt):
    members, shared = list(group), max(0, len(prompt) - repeated)
    own = [len(completions[i]) - shared for i in members]
    for part in best_fit(own, width - shared) if shared else [[n] for n in range(len(own))]:
      size = shared + sum(own[n] for n in part)
      blocks.append(_Block(tuple(members[n] for n in sorted(part)), shared, size))
  return blocks
