"""Laying sampled sequences out in rows of one width, so that every update has the same shapes."""

from collections.abc import Sequence

import jax
import numpy as np

from deepseek_jax.data.document import Sample
from deepseek_jax.data.packing import best_fit, pack_rows
from deepseek_jax.rl.completions import Completion
from deepseek_jax.types import RolloutBatch


def pack(
  completions: Sequence[Completion],
  advantage_N: np.ndarray,
  weight_N: np.ndarray,
  shape: tuple[int, int, int],
  pad_id: int,
) -> tuple[RolloutBatch, int]:
  """The completions as a RolloutBatch of `shape` [M, B, T] and how many micro-batches hold any.

  `advantage_N` and `weight_N` are those of every token of a completion; prompts are not trained
  on. M * B must be no less than the number of completions. Reference log-probabilities are zero.
  """
  most, rows, width = shape
  samples = [Sample(c.prompt + c.tokens, len(c.prompt)) for c in completions]
  layout = best_fit([len(s) for s in samples], width)
  if len(layout) > most * rows:
    raise ValueError(f"{len(samples)} samples need {len(layout)} rows; there are {most * rows}.")
  used = -(-len(layout) // rows)
  batch = pack_rows(samples, layout + [[]] * (most * rows - len(layout)), width, pad_id)
  flat = batch.tokens_BT.shape
  advantage_BT, weight_BT, logprob_BT = (np.zeros(flat, np.float32) for _ in range(3))
  layers, _, active = completions[0].experts_LTA.shape
  experts_LBTA = np.full((layers, *flat, active), -1, np.int32)
  for row, indices in enumerate(layout):
    start = 0
    for i in indices:
      one = completions[i]
      end = start + len(one)
      answer = slice(start + len(one.prompt), end)
      experts_LBTA[:, row, start:end] = one.experts_LTA
      advantage_BT[row, answer] = advantage_N[i]
      weight_BT[row, answer] = weight_N[i]
      logprob_BT[row, answer] = one.logprobs_T
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
